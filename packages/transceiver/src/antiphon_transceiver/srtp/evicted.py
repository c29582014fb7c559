"""The highest indices of sources whose cryptographic contexts were evicted.

A source that is evicted must not start again from index zero. A receiver would accept its recorded packets as new
(RFC 3711 §3.3.2), and a sender would use an index twice (§9.1). So its highest indices are kept, 16 bytes a source.
If the source returns, it continues above them. Its packets that were in flight at the eviction are lost.
"""

from array import array
from bisect import bisect_left
from typing import NamedTuple

MAX_EVICTED = 8192
"""Evicted sources kept in each direction: 128 KiB. A caller with a new source every 3 seconds reaches it after 7
hours. Further sources are then refused: removing one would allow a replay of its packets."""


class Reached(NamedTuple):
    """The highest RTP index and the highest RTCP index of one source; -1 if it had no packet.

    A stream is made with it when its source returns.
    """

    rtp: int
    rtcp: int


class EvictedSources:
    """The highest indices of evicted sources, in arrays ordered by SSRC.

    `add` a source when its context is evicted; `get` and `discard` it when it returns.
    """

    __slots__ = ("_rtcp", "_rtp", "_ssrcs")

    def __init__(self) -> None:
        self._ssrcs = array("I")
        self._rtp = array("Q")
        self._rtcp = array("I")

    def __len__(self) -> int:
        return len(self._ssrcs)

    @property
    def full(self) -> bool:
        """Whether `MAX_EVICTED` sources are kept."""
        return len(self._ssrcs) >= MAX_EVICTED

    def get(self, ssrc: int) -> Reached | None:
        """Return the highest indices of a source, or None if it is not kept."""
        at = bisect_left(self._ssrcs, ssrc)
        if at == len(self._ssrcs) or self._ssrcs[at] != ssrc:
            return None
        return Reached(self._rtp[at] - 1, self._rtcp[at] - 1)

    def add(self, ssrc: int, reached: Reached) -> None:
        """Keep a source that is not kept yet."""
        at = bisect_left(self._ssrcs, ssrc)
        self._ssrcs.insert(at, ssrc)
        self._rtp.insert(at, reached.rtp + 1)
        self._rtcp.insert(at, reached.rtcp + 1)

    def discard(self, ssrc: int) -> None:
        """Remove a source, if it is kept."""
        at = bisect_left(self._ssrcs, ssrc)
        if at < len(self._ssrcs) and self._ssrcs[at] == ssrc:
            del self._ssrcs[at], self._rtp[at], self._rtcp[at]
