"""Packet indices of one synchronisation source (SSRC), in one direction.

An SRTP index is 48 bits: the sequence number that travels and the rollover counter (ROC) that both sides count. An
SRTCP index is 31 bits and travels whole.
"""

from antiphon_common.errors import LocalProtocolError
from antiphon_common.sequence import ReplayWindow, estimate_index

WINDOW_SIZE = 128
"""Packets that may arrive late: 2.5 s of 20 ms frames, longer than any jitter buffer waits. libsrtp's
window for SRTCP has this size too."""

MAX_RTP_INDEX = (1 << 48) - 1
MAX_RTCP_INDEX = (1 << 31) - 1
"""The last packet a key may protect (RFC 3711 §9.2, RFC 7714 §8.1)."""


class SendStream:
    """Hands out each index once, ever: with AES-GCM and AES-CM alike a repeated one would give the key stream away."""

    __slots__ = ("_next_rtcp", "_window")

    def __init__(self, *, highest_rtp: int = -1, next_rtcp: int = 0) -> None:
        self._window = ReplayWindow(WINDOW_SIZE)
        if highest_rtp >= 0:
            self._window.accept(highest_rtp)
        self._next_rtcp = next_rtcp

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
    """Estimates and remembers the indices received. Only an authenticated packet may be passed to an `accept`."""

    __slots__ = ("rtcp", "rtp")

    def __init__(self) -> None:
        self.rtp = ReplayWindow(WINDOW_SIZE)
        self.rtcp = ReplayWindow(WINDOW_SIZE)

    def estimate_rtp(self, sequence: int) -> int | None:
        """Return the packet index that `sequence` must have, or None when it was seen before or is too old."""
        window = self.rtp
        index = estimate_index(sequence, window.highest)
        return index if index <= MAX_RTP_INDEX and window.check(index) else None
