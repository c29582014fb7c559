"""Packet indices of one synchronisation source (SSRC), in one direction.

An SRTP index is 48 bits: the sequence number that travels and the rollover counter (ROC) that both sides count. An
SRTCP index is 31 bits and travels whole.
"""

from antiphon_common.errors import LocalProtocolError
from antiphon_common.sequence import ReplayWindow, estimate_index
from antiphon_transceiver.srtp.evicted import Reached
from antiphon_transceiver.srtp.transform import Transform

WINDOW_SIZE = 128
"""Packets that may arrive late: 2.5 s of 20 ms frames, longer than any jitter buffer waits. libsrtp's
window for SRTCP has this size too."""

MAX_RTP_INDEX = (1 << 48) - 1
MAX_RTCP_INDEX = (1 << 31) - 1
"""The last packet a key may protect (RFC 3711 §9.2, RFC 7714 §8.1)."""


NOTHING_REACHED = Reached(-1, -1)

ROLLOVER = 1 << 16
"""What one rollover adds to an RTP index."""


class SendStream:
    """Hands out each index once, ever: with AES-GCM and AES-CM alike a repeated one would give the key stream away.

    Nothing up to what was `reached` is used again. `transform` is what protects its packets.
    """

    __slots__ = ("_next_rtcp", "_window", "transform")

    def __init__(self, transform: Transform, reached: Reached = NOTHING_REACHED) -> None:
        self.transform = transform
        self._window = ReplayWindow(WINDOW_SIZE, highest=reached.rtp)
        self._next_rtcp = reached.rtcp + 1

    @property
    def reached(self) -> Reached:
        return Reached(self._window.highest, self._next_rtcp - 1)

    def take_rtp(self, sequence: int) -> int:
        """Return the packet index of `sequence`; raise LocalProtocolError if it was, or may have been, used."""
        window = self._window
        index = window.highest + 1
        if index & 0xFFFF != sequence:
            index = estimate_index(sequence, window.highest)
            if not window.check(index):
                raise LocalProtocolError(f"sequence number {sequence} was used before")
        if index > MAX_RTP_INDEX:
            raise LocalProtocolError("the key has protected all the packets it may")
        window.accept(index)
        return index

    def take_rtcp(self) -> int:
        """Return the next SRTCP index; raise LocalProtocolError after the last."""
        index = self._next_rtcp
        if index > MAX_RTCP_INDEX:
            raise LocalProtocolError("the key has protected all the packets it may")
        self._next_rtcp = index + 1
        return index


class ReceiveStream:
    """Estimates and remembers the indices received. Only an authenticated packet may be passed to an `accept`.

    Nothing up to what was `reached` is taken again. `transform` is what unprotects its packets.
    """

    __slots__ = ("rtcp", "rtp", "transform")

    def __init__(self, transform: Transform, reached: Reached = NOTHING_REACHED) -> None:
        self.transform = transform
        self.rtp = ReplayWindow(WINDOW_SIZE, highest=reached.rtp)
        self.rtcp = ReplayWindow(WINDOW_SIZE, highest=reached.rtcp)

    @property
    def reached(self) -> Reached:
        return Reached(self.rtp.highest, self.rtcp.highest)

    def estimate_rtp(self, sequence: int) -> int | None:
        """Return the packet index that `sequence` must have, or None when it was seen before or is too old."""
        window = self.rtp
        index = estimate_index(sequence, window.highest)
        return index if index <= MAX_RTP_INDEX and window.check(index) else None

    def may_have_wrapped(self, sequence: int) -> bool:
        """Whether the first packet to come may belong to rollover 1: the stream began shortly before its number
        wrapped, and what came before was lost. A number in the upper half would mean half a turn was lost."""
        return self.rtp.highest < 0 and sequence < ROLLOVER // 2
