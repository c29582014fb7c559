"""The transits of a stream: the smallest, which playout times are counted from, and how far the others lie above it."""

from math import inf
from typing import Final

WINDOW: Final = 5.0
"""Seconds. The smallest is that of the last one to two windows: long enough to meet an undelayed packet, short enough
that a clock 200 ppm slow moves it by at most 2 ms in between."""

PEAK_WINDOW: Final = 0.5
"""Seconds. The largest is that of the last one to two windows, so jitter that ended is forgotten within a second. So
few packets have no better quantile than their largest."""

MIN_RISE: Final = 0.01
"""Seconds. The smallest transit of the last second replaces the smallest of all if it lies above by more than this, and
in the upper half of the range: a queue grows, or the sender's clock stops in short pauses."""

ASSUMED_JITTER: Final = 0.028
"""Seconds between smallest and largest, as long as nothing has been measured: a good Wi-Fi, and a target of 60 ms."""


class DelayTracker:
    """Tracks the minimum and the maximum of arrival minus media time, in seconds on a scale of its own.

    Both go outwards at once and inwards when a whole window has passed without so extreme a transit, so the minimum
    follows the drift of the sender's clock. A minimum far below that of the last second goes sooner. A window ends with
    an arrival only: a stalled network makes nothing forgotten.
    """

    __slots__ = (
        "_before_lowest",
        "_current_largest",
        "_current_lowest",
        "_current_smallest",
        "_largest_ends_at",
        "_smallest_ends_at",
        "highest",
        "largest",
        "lowest",
        "smallest",
        "until",
    )

    def __init__(self) -> None:
        self.lowest = self.highest = inf
        self.until = inf
        """A transit from `lowest` to `highest` that arrives before `until` changes nothing."""
        self.restart(inf, inf)

    def restart(self, transit: float, now: float) -> None:
        """Forget all but this one transit."""
        self.smallest = self._current_smallest = transit
        self.largest = transit + ASSUMED_JITTER
        self._current_largest = self._current_lowest = self._before_lowest = transit
        self._smallest_ends_at = now + WINDOW
        self._largest_ends_at = now + PEAK_WINDOW
        self._plan()

    def rise(self, transit: float) -> None:
        """Take a transit above the largest, of a packet that may have come too late."""
        self.largest = self._current_largest = self.highest = transit

    def update(self, transit: float, now: float) -> bool:
        """Take the transit of a packet that arrived `now`, in time. Return True if smallest or largest changed."""
        changed = False
        if now >= self._smallest_ends_at:
            self.smallest = min(self._current_smallest, transit)
            self._current_smallest = transit
            self._smallest_ends_at = now + WINDOW
            changed = True
        elif transit < self._current_smallest:
            self._current_smallest = transit
            if transit < self.smallest:
                self.smallest = transit
                changed = True
        if now >= self._largest_ends_at:
            self.largest = max(self._current_largest, transit)
            lowest = min(self._before_lowest, self._current_lowest, transit)
            if lowest - self.smallest > max(MIN_RISE, self.largest - lowest):
                self.smallest = self._current_smallest = lowest
            self._before_lowest = self._current_lowest
            self._current_largest = self._current_lowest = transit
            self._largest_ends_at = now + PEAK_WINDOW
            changed = True
        elif transit > self._current_largest:
            self._current_largest = transit
        elif transit < self._current_lowest:
            self._current_lowest = transit
        self._plan()
        return changed

    def _plan(self) -> None:
        self.lowest = max(self._current_smallest, self._current_lowest)
        self.highest = self._current_largest
        self.until = min(self._smallest_ends_at, self._largest_ends_at)
