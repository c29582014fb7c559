"""The smallest and the largest transit of a stream. Playout times are relative to the smallest; the range is jitter."""

from math import inf
from typing import Final

WINDOW: Final = 5.0
"""Window of the minimum in seconds; it covers the last one to two windows. That is long enough to contain an undelayed
packet. It is short enough that a clock 200 ppm slow moves the minimum by at most 2 ms."""

PEAK_WINDOW: Final = 0.5
"""Window of the maximum in seconds; it covers the last one to two windows, so jitter that ended has no effect after a
second. For so few packets no quantile is better than the maximum."""

MIN_RISE: Final = 0.01
"""Smallest rise of the minimum, in seconds, that is followed within a second. The minimum of the last second must also
lie in the upper half of the range. Then a queue grows, or the sender's clock stops in short pauses."""

ASSUMED_JITTER: Final = 0.028
"""Range in seconds before anything has been measured: that of a good Wi-Fi. It makes a target delay of 60 ms."""


class DelayTracker:
    """Tracks the minimum and the maximum transit: arrival minus media time, in seconds, with an arbitrary zero.

    Call `update` for each timely packet and `rise` for one that may be late. The range widens at once. It narrows when
    a window has passed without so extreme a transit. So the minimum follows the drift of the sender's clock. A minimum
    far below that of the last second is replaced sooner. Only an arrival ends a window, so a stalled network changes
    nothing.
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
        """Begin with a single transit."""
        self.smallest = self._current_smallest = transit
        self.largest = transit + ASSUMED_JITTER
        self._current_largest = self._current_lowest = self._before_lowest = transit
        self._smallest_ends_at = now + WINDOW
        self._largest_ends_at = now + PEAK_WINDOW
        self._plan()

    def rise(self, transit: float) -> None:
        """Raise the maximum to the transit of a packet that may have arrived too late."""
        self.largest = self._current_largest = self.highest = transit

    def update(self, transit: float, now: float) -> bool:
        """Add the transit of a timely packet that arrived `now`. Return True if `smallest` or `largest` changed."""
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
