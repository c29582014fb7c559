"""What comes out of a jitter buffer, and what it counts."""

import msgspec

from antiphon_common.frames import FrameStatus


class JitterFrame(msgspec.Struct, frozen=True, gc=False):
    """A stretch of audio whose turn it is.

    `payload` is the packet itself, received or recovered from RED. Without it, a recovered stretch is held by the
    in-band FEC of the packet after it, `following`, and a concealed one by nothing. Positions never go back; where one
    jumps there was silence, or concealment had ended.
    """

    position: int
    duration: int
    payload: bytes | None
    status: FrameStatus
    following: bytes | None = None


class JitterCounters:
    """Packets unless said otherwise. Of the packets sent up to the newest released one, received - late - excess were
    released and lost were not.

    `lost` counts sequence numbers that were passed over, whether they came late or never; `late` packets came after
    their playout time, `duplicate` ones after another that held the same, `excess` ones too fast. `concealed` and
    `recovered` are releases; `redundant` of the latter came by RED, the others by in-band FEC. What is concealed when a
    stream ends does not count: nothing was lost. `resynchronised` counts how often the stream's clock was taken anew.
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
