"""Our own connectivity checks: the binding requests under way, and when validated paths are checked next."""

from collections.abc import Callable
from math import inf

from antiphon_common.stun import TRANSACTION_ID_SIZE, AttributeType, Message, MessageClass, Transaction
from antiphon_transceiver.ice.paths import PathState

CONSENT_INTERVAL = 4.0
"""Mean seconds between two checks of the selected path. Some embedded clients hang up after 10 s without one, whatever
media arrives; so one check may get lost. Each interval varies by a fifth (RFC 7675 §5.1)."""

STANDBY_INTERVAL = 10.0
"""Seconds between two checks of a standby pair. Chromium stops checking a second ingress after a few seconds, but
answers, and keeps the pair while anything came by it in the last 30 s. Three of these fit."""

PRIORITY = (110 << 24 | 0xFFFF << 8 | 0xFF).to_bytes(4, "big")
"""Of the peer-reflexive candidate of ours that a check may reveal (RFC 8445 §5.1.2, §7.1.1)."""


def vary(interval: float, random: Callable[[int], bytes]) -> float:
    """Return an interval that varies by a fifth, so that checks of many calls do not keep step (RFC 7675 §5.1)."""
    return interval * (0.8 + 0.4 * random(1)[0] / 255)


class OutgoingChecks:
    """The checks of a controlled agent that are under way, at most one for each path.

    The agent sends what `begin` returns, and again what is `due`. `deadline` is when something is due next.
    """

    def __init__(self, random: Callable[[int], bytes], tie_breaker: bytes) -> None:
        self.deadline = inf
        self._random = random
        self._tie_breaker = tie_breaker
        self._paths: dict[bytes, PathState] = {}
        """Paths by the transaction id of their check."""

    def begin(
        self, state: PathState, now: float, *, first_wait: float, longest_wait: float, attempts: int
    ) -> Transaction:
        """Begin a check of a path that has none under way; return its transaction. Waits are in seconds."""
        transaction_id = self._random(TRANSACTION_ID_SIZE)
        attributes: dict[int, bytes] = {
            AttributeType.USERNAME: state.generation.username,
            AttributeType.ICE_CONTROLLED: self._tie_breaker,
            AttributeType.PRIORITY: PRIORITY,
        }
        request = Message(MessageClass.REQUEST, transaction_id, attributes)
        check = Transaction(
            transaction_id,
            request.encode(state.generation.remote_password),
            now,
            first_wait=first_wait,
            longest_wait=longest_wait,
            attempts=attempts,
        )
        state.check = check
        state.check_password = state.generation.remote_password
        state.check_started = now
        self._paths[transaction_id] = state
        self.deadline = min(self.deadline, check.deadline)
        return check

    def end(self, state: PathState) -> None:
        """End the check of a path, if one is under way."""
        if state.check is not None:
            del self._paths[state.check.transaction_id]
            state.check = None

    def find(self, transaction_id: bytes) -> PathState | None:
        """Return the path whose check has this transaction id."""
        return self._paths.get(transaction_id)

    def due(self, now: float) -> list[tuple[PathState, Transaction]]:
        """Return the checks that waited long enough for an answer. Call `update_deadline` once they are handled."""
        checks = [(state, state.check) for state in self._paths.values()]
        return [(state, check) for state, check in checks if check is not None and now >= check.deadline]

    def update_deadline(self) -> None:
        """Find out when the next check is due."""
        self.deadline = min((state.check.deadline for state in self._paths.values() if state.check), default=inf)


class ConsentSchedule:
    """When validated paths are checked although media flows: the selected one and the standby pairs.

    Times are seconds, infinity for never. The agent plans the next check with each one that it sends.
    """

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self.selected_at = inf
        self.standby_at = inf
        self._random = random

    def plan_selected(self, now: float) -> None:
        """Plan the next check of the selected path, a varying interval from now."""
        self.selected_at = now + vary(CONSENT_INTERVAL, self._random)

    def plan_standby(self, now: float) -> None:
        """Plan the next check of the standby pairs, unless an earlier one is planned."""
        self.standby_at = min(self.standby_at, now + STANDBY_INTERVAL)
