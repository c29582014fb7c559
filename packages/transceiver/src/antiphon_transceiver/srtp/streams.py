"""Packet indices of one synchronisation source (SSRC), in one direction.

An SRTP index has 48 bits: the sequence number in the packet, and the rollover counter (ROC) that both sides count. An
SRTCP index has 31 bits, all of them in the packet.
"""

from antiphon_common.errors import LocalProtocolError
from antiphon_common.sequence import ReplayWindow, estimate_index
from antiphon_transceiver.srtp.evicted import Reached
from antiphon_transceiver.srtp.transform import Transform

WINDOW_SIZE = 128
"""Packets of the replay window: 2.5 s of 20 ms frames, longer than any jitter buffer waits. libsrtp's window for SRTCP
has the same size."""

MAX_RTP_INDEX = (1 << 48) - 1
MAX_RTCP_INDEX = (1 << 31) - 1
"""The last packet a key may protect (RFC 3711 §9.2, RFC 7714 §8.1)."""


NOTHING_REACHED = Reached(-1, -1)

ROLLOVER = 1 << 16
"""RTP indices of one rollover."""


class SendStream:
    """The indices of a source that we send. It returns each index once, since a repeated one reveals the key stream.

    Take an index for each packet, and protect the packet with `transform`. Indices begin above those `reached`. `rtp`
    has the RTP indices used.
    """

    __slots__ = ("_next_rtcp", "rtp", "transform")

    def __init__(self, transform: Transform, reached: Reached = NOTHING_REACHED) -> None:
        self.transform = transform
        self.rtp = ReplayWindow(WINDOW_SIZE, highest=reached.rtp)
        self._next_rtcp = reached.rtcp + 1

    @property
    def reached(self) -> Reached:
        """The highest indices taken."""
        return Reached(self.rtp.highest, self._next_rtcp - 1)

    def take_rtp(self, sequence: int) -> int:
        """Return the packet index of `sequence`.

        Raises:
            LocalProtocolError: The index was used, or may have been used, or the key's last index was used.
        """
        window = self.rtp
        index = estimate_index(sequence, window.highest)
        if not window.check(index):
            raise LocalProtocolError(f"sequence number {sequence} was used before")
        if index > MAX_RTP_INDEX:
            raise LocalProtocolError("the key has protected all the packets it may")
        window.accept(index)
        return index

    def take_rtcp(self) -> int:
        """Return the next SRTCP index.

        Raises:
            LocalProtocolError: The key's last index was used.
        """
        index = self._next_rtcp
        if index > MAX_RTCP_INDEX:
            raise LocalProtocolError("the key has protected all the packets it may")
        self._next_rtcp = index + 1
        return index


class ReceiveStream:
    """The replay windows of a source that we receive (RFC 3711 §3.3.2).

    Check an index, unprotect the packet with `transform`, and call `accept` only if the packet is authentic. Indices
    up to those `reached` are refused.
    """

    __slots__ = ("rtcp", "rtp", "transform")

    def __init__(self, transform: Transform, reached: Reached = NOTHING_REACHED) -> None:
        self.transform = transform
        self.rtp = ReplayWindow(WINDOW_SIZE, highest=reached.rtp)
        self.rtcp = ReplayWindow(WINDOW_SIZE, highest=reached.rtcp)

    @property
    def reached(self) -> Reached:
        """The highest indices accepted."""
        return Reached(self.rtp.highest, self.rtcp.highest)

    def estimate_rtp(self, sequence: int) -> int | None:
        """Return the packet index of `sequence` (RFC 3711 §3.3.1), or None if it is replayed or too old."""
        window = self.rtp
        index = estimate_index(sequence, window.highest)
        return index if index <= MAX_RTP_INDEX and window.check(index) else None

    def may_have_wrapped(self, sequence: int) -> bool:
        """Return True if the first packet received may belong to rollover 1.

        That happens if the stream began shortly before its sequence number wrapped and those packets were lost. A
        sequence number in the upper half would mean that more than 2^15 packets were lost.
        """
        return self.rtp.highest < 0 and sequence < ROLLOVER // 2
