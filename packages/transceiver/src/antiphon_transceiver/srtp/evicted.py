"""Where the sources stopped whose contexts were evicted.

An evicted source must not start again from zero. On receipt its recorded packets would pass for new ones (RFC 3711
§3.3.2), and on sending the cipher would use an index twice (§9.1). So its highest indices are kept, 16 bytes a source,
and it continues above them if it comes back. Packets of it that were still under way at the eviction are lost.
"""

from array import array
from bisect import bisect_left
from typing import NamedTuple

MAX_EVICTED = 8192
"""Sources remembered in each direction: 128 KiB. A caller that takes a new one every 3 seconds reaches it after 7
hours. When it is full, further sources are refused: forgetting one would let its packets be replayed."""


class Reached(NamedTuple):
    """The highest index of RTP and of RTCP; -1 where there was none."""

    rtp: int
    rtcp: int


class EvictedSources:
    """The indices that evicted sources had reached, in arrays ordered by SSRC."""

    __slots__ = ("_rtcp", "_rtp", "_ssrcs")

    def __init__(self) -> None:
        self._ssrcs = array("I")
        self._rtp = array("Q")
        self._rtcp = array("I")

    def __len__(self) -> int:
        return len(self._ssrcs)

    @property
    def full(self) -> bool:
        return len(self._ssrcs) >= MAX_EVICTED

    def get(self, ssrc: int) -> Reached | None:
        """Return where a source stopped, or None if it was never evicted."""
        at = bisect_left(self._ssrcs, ssrc)
        if at == len(self._ssrcs) or self._ssrcs[at] != ssrc:
            return None
        return Reached(self._rtp[at] - 1, self._rtcp[at] - 1)

    def add(self, ssrc: int, reached: Reached) -> None:
        """Remember a source that is not there yet."""
        at = bisect_left(self._ssrcs, ssrc)
        self._ssrcs.insert(at, ssrc)
        self._rtp.insert(at, reached.rtp + 1)
        self._rtcp.insert(at, reached.rtcp + 1)

    def discard(self, ssrc: int) -> None:
        """Remove a source, if it is there."""
        at = bisect_left(self._ssrcs, ssrc)
        if at < len(self._ssrcs) and self._ssrcs[at] == ssrc:
            del self._ssrcs[at], self._rtp[at], self._rtcp[at]
