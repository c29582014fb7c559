"""Events that are numbered, of any length, and no two alike; and what is known of those on their way in one direction.

Each comes exactly once, in order, and as it was written.
"""

from typing import Any, NamedTuple

LETTER = "letter"
"""The type of such an event."""

PATIENCE, SLOWEST = 4.0, 8000
"""Seconds after which a letter has come over the worst of networks, and characters a second that it carries at least;
what was posted before has to come first."""


def letter(number: int, size: int) -> dict[str, Any]:
    """Return an event with a text of `size` characters."""
    line = f"{number} of {size}; "
    return {"type": LETTER, "number": number, "text": (line * (size // len(line) + 1))[:size]}


class Posted(NamedTuple):
    """A letter of `size` characters that is to arrive by `due` where nothing breaks."""

    size: int
    due: float


class Mail:
    """One direction of a call. What does not hold is returned as a complaint, which is empty if all is well."""

    def __init__(self) -> None:
        self.posted: list[Posted] = []
        self.arrived = 0
        """How many letters have come, or were excused."""
        self.outstanding = 0
        """Characters on their way."""
        self._next = 0
        self._excused = 0
        """Letters before this number may never come."""

    def post(self, size: int, now: float) -> dict[str, Any]:
        """Return the next letter."""
        self.outstanding += size
        self.posted.append(Posted(size, now + PATIENCE + self.outstanding / SLOWEST))
        return letter(len(self.posted) - 1, size)

    def arrive(self, event: dict[str, Any]) -> str:
        number = event.get("number")
        if not isinstance(number, int) or not 0 <= number < len(self.posted):
            return f"a letter that nobody wrote: {event}"[:100]
        size = self.posted[number].size
        if event != letter(number, size):
            return f"letter {number} of {size} characters is not what was written"
        if number < self._next:
            return f"letter {number} after {self._next - 1}"
        if number > self._next and number > self._excused:
            return f"letter {number} before {max(self._next, self._excused)}"
        self._next = number + 1
        self._settle(self._next)
        return ""

    def excuse(self) -> None:
        """The backend is gone: what is on its way now may be lost with it."""
        self._excused = len(self.posted)

    def resume(self) -> None:
        """Another backend reads on: it may be given again what the one before it was, and begin with any of that."""
        self._excused = max(self._excused, self._next)
        self._next = 0

    def missing(self, now: float) -> int:
        """Return how many letters should have come by now and did not."""
        return sum(letter.due < now for letter in self.posted[max(self.arrived, self._excused) :])

    def _settle(self, arrived: int) -> None:
        while self.arrived < arrived:
            self.outstanding -= self.posted[self.arrived].size
            self.arrived += 1
