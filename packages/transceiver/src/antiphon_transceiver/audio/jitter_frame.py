"""The frames that a jitter buffer releases, and its counters."""

import msgspec

from antiphon_common.frames import FrameStatus


class JitterFrame(msgspec.Struct, frozen=True, gc=False):
    """A frame of the caller's audio that a `JitterBuffer` releases, in ticks of 48 kHz.

    `payload` is the packet that was received, or recovered from RED. It is None in two cases. A recovered frame is then
    in the in-band FEC of the next packet, `following`. A concealed frame has no data. Positions never decrease. Where
    they jump, there was silence, or the longest concealment had ended.
    """

    position: int
    duration: int
    payload: bytes | None
    status: FrameStatus
    following: bytes | None = None


class JitterCounters:
    """The counters of a `JitterBuffer`. They count packets unless stated otherwise.

    Of the packets sent up to the newest released one, received - late - excess were released, and `lost` were not.
    `lost` counts sequence numbers that were skipped, whether their packets arrived late or never. `late` packets
    arrived after their playout time. `duplicate` packets had been received or recovered before. `excess` packets
    arrived too fast. `concealed` and `recovered` count frames; `redundant` ones were recovered from RED, not in-band
    FEC. Concealment at the end of a stream does not count, since nothing was lost. `resynchronised` counts restarts
    with another source or clock.
    """

    __slots__ = (
        "concealed",
        "duplicate",
        "excess",
        "invalid",
        "late",
        "lost",
        "received",
        "recovered",
        "redundant",
        "reordered",
        "resynchronised",
    )

    def __init__(self) -> None:
        self.received = 0
        self.lost = 0
        self.recovered = 0
        self.redundant = 0
        self.concealed = 0
        self.late = 0
        self.duplicate = 0
        self.reordered = 0
        self.invalid = 0
        self.excess = 0
        self.resynchronised = 0
