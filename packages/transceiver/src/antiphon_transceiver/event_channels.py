"""Which of the data channels of a call carries its events.

The one called `oai-events` does, and the newest of several. Where no channel has that name, the one opened first does:
many clients have a single channel, and leave its label empty or choose another.
"""

from math import inf

EVENTS_LABEL = "oai-events"

OPENING_DELAY = 0.1
"""Seconds for which events for the caller wait once a channel with another label is open: `oai-events` may be about to
follow it. An event from the caller ends the wait."""


class EventChannels:
    """The open channels of a call."""

    def __init__(self) -> None:
        self._named: dict[int, None] = {}
        """Those called `oai-events`, in the order they were opened."""
        self._others: dict[int, float] = {}
        """When events may be sent over each, in seconds; in the order they were opened."""

    @property
    def current(self) -> int | None:
        """The channel that events are sent over."""
        return next(reversed(self._named), None) if self._named else next(iter(self._others), None)

    @property
    def ready_at(self) -> float:
        """When events may be sent over `current`, in seconds; infinite when there is none."""
        return -inf if self._named else next(iter(self._others.values()), inf)

    def opened(self, channel: int, label: str, now: float) -> None:
        """Add a channel."""
        if label == EVENTS_LABEL:
            self._named[channel] = None
        else:
            self._others[channel] = now + OPENING_DELAY

    def closed(self, channel: int) -> None:
        """Remove a channel."""
        self._named.pop(channel, None)
        self._others.pop(channel, None)

    def carries(self, channel: int) -> bool:
        """Return whether messages on an open channel are events."""
        return channel in self._named or channel == self.current

    def settle(self) -> None:
        """Let events be sent over `current` from now on."""
        current = self.current
        if current in self._others:
            self._others[current] = -inf

    def clear(self) -> None:
        """Remove all channels."""
        self._named.clear()
        self._others.clear()
