"""Numbered events of any length in one direction of a call. Each must arrive exactly once, in order and unchanged."""

from typing import Any, NamedTuple

SEQUENCED_EVENT = "serial"
"""The type of a sequenced event."""

MAX_DELAY, MIN_RATE = 4.0, 8000
"""Largest delay in seconds, and least rate in characters per second, over the worst network. Events queue behind those
sent before."""


def sequenced_event(number: int, size: int) -> dict[str, Any]:
    """Return an event with a text of `size` characters."""
    line = f"{number} of {size}; "
    return {"type": SEQUENCED_EVENT, "number": number, "text": (line * (size // len(line) + 1))[:size]}


class SentEvent(NamedTuple):
    """An event of `size` characters. Without a fault it arrives by `due`."""

    size: int
    due: float


class SequencedEvents:
    """The events of one direction of a call. Call `send` for each event sent, and `receive` for each that arrives."""

    def __init__(self) -> None:
        self.sent: list[SentEvent] = []
        self.arrived = 0
        """Number of events that arrived, or were excused."""
        self.outstanding = 0
        """Characters in flight."""
        self._next = 0
        self._excused = 0
        """Events before this number may be lost."""

    def send(self, size: int, now: float) -> dict[str, Any]:
        """Return the next event to send."""
        self.outstanding += size
        self.sent.append(SentEvent(size, now + MAX_DELAY + self.outstanding / MIN_RATE))
        return sequenced_event(len(self.sent) - 1, size)

    def receive(self, event: dict[str, Any]) -> str:
        """Check an event that arrived. Return a description of the violation, or an empty string."""
        number = event.get("number")
        if not isinstance(number, int) or not 0 <= number < len(self.sent):
            return f"an event that was never sent: {event}"[:100]
        size = self.sent[number].size
        if event != sequenced_event(number, size):
            return f"event {number} of {size} characters is not as it was sent"
        if number < self._next:
            return f"event {number} after {self._next - 1}"
        if number > self._next and number > self._excused:
            return f"event {number} before {max(self._next, self._excused)}"
        self._next = number + 1
        self._count_arrived(self._next)
        return ""

    def excuse(self) -> None:
        """Allow the loss of all events in flight, because the connection to the backend was lost."""
        self._excused = len(self.sent)

    def resume(self) -> None:
        """Allow another backend to receive again, from any number on, events that the previous one received."""
        self._excused = max(self._excused, self._next)
        self._next = 0

    def missing(self, now: float) -> int:
        """Return the number of events that are overdue."""
        return sum(event.due < now for event in self.sent[max(self.arrived, self._excused) :])

    def _count_arrived(self, arrived: int) -> None:
        while self.arrived < arrived:
            self.outstanding -= self.sent[self.arrived].size
            self.arrived += 1
