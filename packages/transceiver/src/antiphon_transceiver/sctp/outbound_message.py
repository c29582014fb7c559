"""Messages to send, and the DATA chunks that carry them."""

import msgspec


class OutboundMessage(msgspec.Struct, eq=False):
    """A message, from when it is queued until its last chunk is acknowledged. Times are in seconds.

    `Association.send` makes it; `DataSender` cuts it into chunks.
    """

    stream: int
    ppid: int
    data: bytes
    unordered: bool
    max_retransmits: int | None
    max_lifetime: float | None
    expires_at: float | None = None
    ssn: int = 0
    offset: int = 0
    """Bytes that have been sent."""
    first_tsn: int = -1
    abandoned: bool = False
    size: int = 0
    """Bytes of `data`."""

    def __post_init__(self) -> None:
        self.size = len(self.data)

    def is_expired(self, now: float) -> bool:
        """Return True if its lifetime has passed."""
        return self.expires_at is not None and now >= self.expires_at


class SentChunk:
    """A DATA chunk that was sent. `DataSender` keeps it until the cumulative TSN has reached it.

    A chunk without `wire` stands for the part of an abandoned message that was never sent.
    """

    __slots__ = (
        "acked",
        "in_flight",
        "length",
        "lost",
        "message",
        "missing_reports",
        "queued",
        "sent_at",
        "sent_before",
        "size",
        "transmissions",
        "tsn",
        "wire",
    )

    def __init__(self, tsn: int, message: OutboundMessage, wire: bytes, size: int) -> None:
        self.tsn = tsn
        self.message = message
        self.wire = wire
        self.length = len(wire)
        """Bytes of the chunk in flight, its header included."""
        self.size = size
        """Bytes of the message in the chunk."""
        self.sent_at = 0.0
        self.sent_before = tsn
        """The highest TSN sent when this was sent last. Only SACKs of higher TSNs report it missing."""
        self.transmissions = 0
        self.missing_reports = 0
        self.in_flight = False
        self.acked = False
        self.lost = False
        self.queued = False
        """Whether its TSN is in the heap of lost chunks."""
