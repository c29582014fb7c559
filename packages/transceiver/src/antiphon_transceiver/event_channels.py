"""Which data channel of a call carries its events.

It is the newest channel that is labelled `oai-events`. Without such a channel it is the one opened first: many clients
have a single channel with an empty label, or another one.
"""

from math import inf

EVENTS_LABEL = "oai-events"

OPENING_DELAY = 0.1
"""Seconds that events for the caller wait once a channel with another label is open, since `oai-events` may follow it.
An event from the caller ends the wait."""


class EventChannels:
    """The open channels of a call. Report opened and closed channels; `current` is the one to send events over."""

    def __init__(self) -> None:
        self._named: dict[int, None] = {}
        """Channels labelled `oai-events`, in the order they were opened."""
        self._others: dict[int, float] = {}
        """When events may be sent over each other channel, in seconds; in the order they were opened."""

    @property
    def current(self) -> int | None:
        """The channel that events are sent over."""
        return next(reversed(self._named), None) if self._named else next(iter(self._others), None)

    @property
    def ready_at(self) -> float:
        """When events may be sent over `current`, in seconds; infinity when there is none."""
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

    def end_wait(self) -> None:
        """Allow events over `current` from now on."""
        current = self.current
        if current in self._others:
            self._others[current] = -inf

    def clear(self) -> None:
        """Remove all channels."""
        self._named.clear()
        self._others.clear()
