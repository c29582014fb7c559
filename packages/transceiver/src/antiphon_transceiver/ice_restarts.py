"""How often a call may restart ICE."""

from math import ceil

from antiphon_common.errors import AntiphonError

MAX_RESTARTS = 1000
"""ICE restarts of one call: one every four minutes for three days."""
RESTARTS_AT_ONCE, RESTART_SECONDS = 10, 6.0
"""Restarts that may follow one another, and the seconds after which there may be one more: a client whose network comes
and goes restarts every few seconds for a while. Each makes a route token that outlives it."""


class TooManyRestarts(AntiphonError):
    """A call may not restart ICE now; `retry_after` is when it may, in whole seconds, None for never."""

    def __init__(self, retry_after: int | None) -> None:
        super().__init__("this call has restarted ICE too often")
        self.retry_after = retry_after


class RestartLimiter:
    """A token bucket for the ICE restarts of one call. Call `count` before each restart."""

    def __init__(self, now: float) -> None:
        self._restarts = 0
        self._tokens: float = RESTARTS_AT_ONCE
        self._updated_at = now

    def count(self, now: float) -> None:
        """Count a restart. Raises TooManyRestarts when it is one too many, and does not count it then."""
        earned = (now - self._updated_at) / RESTART_SECONDS
        tokens = min(self._tokens + earned, RESTARTS_AT_ONCE)
        if self._restarts >= MAX_RESTARTS:
            raise TooManyRestarts(None)
        if tokens < 1:
            raise TooManyRestarts(ceil((1 - tokens) * RESTART_SECONDS))
        self._restarts += 1
        self._tokens, self._updated_at = tokens - 1, now
