"""Disowned route tokens: their owner has no such call any more, and checks with them shall cost it nothing."""

MAX_DISOWNED = 16384
"""Tokens, 3 MB. Beyond them the oldest is removed, and passes until it is disowned again."""
DISOWNED_SECONDS = 60.0
"""How long a token stays disowned. One check with it in this time reaches its owner."""


class DisownedTokens:
    """Ufrags whose checks are not forwarded, each with the time until then, the oldest first. `expire` cleans up."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def __contains__(self, ufrag: bytes) -> bool:
        return ufrag in self._until

    def add(self, ufrag: bytes, now: float) -> None:
        """Add a ufrag, at the request of its authenticated owner."""
        self._until.pop(ufrag, None)
        self._until[ufrag] = now + DISOWNED_SECONDS
        if len(self._until) > MAX_DISOWNED:
            del self._until[next(iter(self._until))]

    def clear(self) -> None:
        """Remove all, when calls have changed their owner."""
        self._until.clear()

    def expire(self, now: float) -> None:
        """Remove the ufrags whose time is over."""
        while self._until and next(iter(self._until.values())) <= now:
            del self._until[next(iter(self._until))]
