"""The smallest transit of a stream: what playout times are counted from."""

from math import inf
from typing import Final

WINDOW: Final = 5.0
"""Seconds. The minimum is that of the last one to two windows: long enough to meet an undelayed packet, short enough
that a clock 200 ppm slow moves it by at most 2 ms in between."""


class MinimalTransit:
    """Tracks the minimum of arrival minus media time, in seconds on a scale of its own.

    It falls at once and rises when a whole window has passed without so small a transit, so it follows the drift of the
    sender's clock. A window ends with an arrival only: a stalled network makes nothing forgotten.
    """

    __slots__ = ("_current", "_ends_at", "value")

    def __init__(self) -> None:
        self.value = self._current = inf
        self._ends_at = inf

    def restart(self, transit: float, now: float) -> None:
        """Forget all but this one transit."""
        self.value = self._current = transit
        self._ends_at = now + WINDOW

    def update(self, transit: float, now: float) -> None:
        """Take the transit of a packet that arrived `now`."""
        if now >= self._ends_at:
            self.value = min(self._current, transit)
            self._current = transit
            self._ends_at = now + WINDOW
        elif transit < self._current:
            self._current = transit
            if transit < self.value:
                self.value = transit
