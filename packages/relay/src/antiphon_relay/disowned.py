"""Route tokens whose owners have no call of that name any more, so that checks with them cost the owner nothing."""

MAX_DISOWNED = 16384
"""Tokens remembered, 3 MB; beyond them the oldest is forgotten, and passes until it is disowned again."""
DISOWNED_SECONDS = 60.0
"""How long a token is remembered: so often one check with it reaches its owner."""


class DisownedTokens:
    """Ufrags by the time until which no check with them is forwarded; oldest first."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def __contains__(self, ufrag: bytes) -> bool:
        return ufrag in self._until

    def add(self, ufrag: bytes, now: float) -> None:
        """Remember a ufrag whose owner was authenticated."""
        self._until.pop(ufrag, None)
        self._until[ufrag] = now + DISOWNED_SECONDS
        if len(self._until) > MAX_DISOWNED:
            del self._until[next(iter(self._until))]

    def clear(self) -> None:
        """Forget all, when calls have changed their owner."""
        self._until.clear()

    def expire(self, now: float) -> None:
        """Forget what was added long ago."""
        while self._until and next(iter(self._until.values())) <= now:
            del self._until[next(iter(self._until))]
