"""Limits of one tenant and one address at a signaling server: concurrent calls, pending set-ups, and offers a second.

`now` is in seconds and never goes backwards. A set-up begins with its offer. It ends when the call is connected for the
first time, or is over. Transceivers report which calls run (`reported`). A call that none of them has reported for
FORGET_SECONDS no longer counts.
"""

from collections import OrderedDict
from collections.abc import Iterable
from math import ceil
from typing import NamedTuple

import msgspec

from antiphon_signaling.refusals import RefusedError

BURST_SECONDS = 5.0
"""Length of a burst, in seconds of the offer rate."""
QUESTIONS_PER_OFFER = 5
"""Requests about calls, hang-ups included, that are allowed for each allowed offer. Each goes to every transceiver,
where it delays media by up to a millisecond."""
MAX_CALLS = 20_000
"""Calls that are counted. The one that was reported least recently makes room for a new one, and no longer counts."""
MAX_IDLE_ACCOUNTS = 10_000
"""Accounts without calls that are kept: more than send offers within BURST_SECONDS."""
FORGET_SECONDS = 60.0
"""Seconds for which a call counts that no transceiver reports. Its transceiver may be unreachable, or older than
0.3."""
RETRY_SECONDS = 2
"""Seconds after which a caller with too many calls may try again: one of them may have ended."""


class Limit(NamedTuple):
    """The limits of one tenant, or of one address. `Limits` applies them.

    `offers` is a rate per second, ICE restarts included.
    """

    calls: int
    setups: int
    offers: float


class _Account:
    """One tenant's or one address's use of a limit."""

    __slots__ = ("calls", "questions", "refilled", "setups", "tokens")

    def __init__(self, limit: Limit, now: float) -> None:
        self.calls = 0
        """Running calls, set-ups included."""
        self.setups = 0
        self.tokens = limit.offers * BURST_SECONDS
        self.questions = self.tokens * QUESTIONS_PER_OFFER
        self.refilled = now


class _Accounts:
    """The accounts of all tenants, or of all addresses. Those without calls give way to newer ones."""

    def __init__(self, kind: str, limit: Limit) -> None:
        self._kind = kind
        self._limit = limit
        self._burst = max(1.0, limit.offers * BURST_SECONDS)
        self._busy: dict[str, _Account] = {}
        self._idle: OrderedDict[str, _Account] = OrderedDict()

    def check(self, name: str, now: float, *, setup: bool) -> None:
        """Raise `RefusedError` (429) if an offer exceeds the limits; with `setup` False, if a restart does."""
        account = self._find(name, now)
        if setup and account.calls >= self._limit.calls:
            raise self._refusal("calls", f"{self._limit.calls} calls at once", RETRY_SECONDS)
        if setup and account.setups >= self._limit.setups:
            raise self._refusal("setups", f"{self._limit.setups} calls that are not connected yet", RETRY_SECONDS)
        if account.tokens < 1:
            wait = ceil((1 - account.tokens) / self._limit.offers)
            raise self._refusal("offers", f"{self._limit.offers:g} offers a second", wait)

    def check_question(self, name: str, now: float) -> None:
        """Raise `RefusedError` (429) if a request about a call exceeds the limit."""
        account, allowed = self._find(name, now), self._limit.offers * QUESTIONS_PER_OFFER
        if account.questions < 1:
            wait = ceil((1 - account.questions) / allowed)
            raise self._refusal("questions", f"{allowed:g} questions and hang-ups a second", wait)

    def take_question(self, name: str, now: float) -> None:
        """Count a request about a call."""
        self._find(name, now).questions -= 1

    def take(self, name: str, now: float) -> None:
        """Count an offer or a restart."""
        self._find(name, now).tokens -= 1

    def add(self, name: str, calls: int, setups: int, now: float) -> None:
        """Change the number of calls, and of those that are not connected yet."""
        account = self._find(name, now)
        account.calls += calls
        account.setups += setups
        if account.calls and name in self._idle:
            self._busy[name] = self._idle.pop(name)
        elif not account.calls and name in self._busy:
            self._keep_idle(name, self._busy.pop(name))

    def _find(self, name: str, now: float) -> _Account:
        account = self._busy.get(name) or self._idle.get(name)
        if account is None:
            account = _Account(self._limit, now)
            account.tokens, account.questions = self._burst, self._burst * QUESTIONS_PER_OFFER
            self._keep_idle(name, account)
        earned = (now - account.refilled) * self._limit.offers
        account.tokens = min(self._burst, account.tokens + earned)
        account.questions = min(self._burst, account.questions / QUESTIONS_PER_OFFER + earned) * QUESTIONS_PER_OFFER
        account.refilled = now
        return account

    def _keep_idle(self, name: str, account: _Account) -> None:
        while len(self._idle) >= MAX_IDLE_ACCOUNTS:
            self._idle.popitem(last=False)
        self._idle[name] = account

    def _refusal(self, what: str, allowed: str, retry_after: int) -> RefusedError:
        message = f"this {self._kind} has its {allowed}: try again in a moment"
        headers = {"Retry-After": str(max(1, retry_after))}
        return RefusedError(429, f"too_many_{what}_of_{self._kind}", message, headers=headers)


class Setup(msgspec.Struct, eq=False):
    """One call from its offer on: its tenant and address, and its transceiver. `Limits.begin` makes it.

    A tenant or address of None is not limited.
    """

    tenant: str | None
    address: str | None
    since: float
    call_id: str = ""
    transceiver: str = ""
    connected: bool = False


class LimitCounters:
    """Counts what limits did; exported as `antiphon_signaling_*`. Refused offers are counted by `CallMetrics`."""

    def __init__(self) -> None:
        self.calls_forgotten = 0
        """Calls that no longer count although no transceiver reported their end."""
        self.questions_refused = 0
        """Requests about calls, hang-ups included."""
        self.restarts_refused = 0


class Limits:
    """Counts the calls and offers of each tenant and each address. `begin` each offer, then `place` or `end` it.

    An offer costs constant time, a report time in proportion to its calls.
    """

    def __init__(self, tenant: Limit, address: Limit) -> None:
        self._tenants = _Accounts("tenant", tenant)
        self._addresses = _Accounts("address", address)
        self._calls: OrderedDict[str, Setup] = OrderedDict()
        """By id; the least recently reported call first."""
        self._placed: dict[str, dict[str, Setup]] = {}
        """The same calls by transceiver."""
        self.counters = LimitCounters()

    def begin(self, tenant: str | None, address: str | None, now: float) -> Setup:
        """Count an offer, which `place` or `end` must follow. A tenant or address of None is not limited.

        Raises:
            RefusedError: the offer exceeds a limit (429).
        """
        setup = Setup(tenant, address, now)
        self._take(setup, now, setup=True)
        self._add(setup, 1, 1, now)
        return setup

    def restart(self, tenant: str | None, address: str | None, now: float) -> None:
        """Count an ICE restart.

        Raises:
            RefusedError: the restart exceeds a limit (429).
        """
        try:
            self._take(Setup(tenant, address, now), now, setup=False)
        except RefusedError:
            self.counters.restarts_refused += 1
            raise

    def ask(self, tenant: str | None, address: str | None, now: float) -> None:
        """Count a request about a call, or a hang-up.

        Raises:
            RefusedError: the request exceeds a limit (429).
        """
        accounts = list(self._accounts_of(Setup(tenant, address, now)))
        try:
            for accounts_of_kind, name in accounts:
                accounts_of_kind.check_question(name, now)
        except RefusedError:
            self.counters.questions_refused += 1
            raise
        for accounts_of_kind, name in accounts:
            accounts_of_kind.take_question(name, now)

    def place(self, setup: Setup, call_id: str, transceiver: str, now: float) -> None:
        """Note that a transceiver has accepted a call."""
        while len(self._calls) >= MAX_CALLS:
            self._forget(next(iter(self._calls.values())), now)
        setup.call_id, setup.transceiver, setup.since = call_id, transceiver, now
        self._calls[call_id] = setup
        self._placed.setdefault(transceiver, {})[call_id] = setup

    def end(self, setup: Setup, now: float) -> None:
        """Note that a set-up failed, or that a call is over."""
        if setup.call_id:
            if self._calls.pop(setup.call_id, None) is None:
                return  # it had ended before
            del self._placed[setup.transceiver][setup.call_id]
            if not self._placed[setup.transceiver]:
                del self._placed[setup.transceiver]
        self._add(setup, -1, 0 if setup.connected else -1, now)

    def end_call(self, call_id: str, now: float) -> None:
        """Note that a call is over. A call that is not counted is ignored."""
        if (setup := self._calls.get(call_id)) is not None:
            self.end(setup, now)

    @property
    def transceivers(self) -> set[str]:
        """Control URLs of the transceivers with calls that count, which have to be asked."""
        return set(self._placed)

    def reported(
        self, transceiver: str, connecting: Iterable[str], connected: Iterable[str], asked_at: float, now: float
    ) -> None:
        """Take the calls that a transceiver lists, in answer to a request sent at `asked_at`."""
        states = dict.fromkeys(connecting, False) | dict.fromkeys(connected, True)
        for setup in list(self._placed.get(transceiver, {}).values()):
            state = states.get(setup.call_id)
            if state is not None:
                setup.since = now
                self._calls.move_to_end(setup.call_id)
                if state and not setup.connected:
                    setup.connected = True
                    self._add(setup, 0, -1, now)
            elif setup.since < asked_at:
                self.end(setup, now)

    def forget_unreported(self, now: float) -> None:
        """Stop counting calls that no transceiver has reported for FORGET_SECONDS."""
        for setup in list(self._calls.values()):
            if now - setup.since < FORGET_SECONDS:
                break
            self._forget(setup, now)

    def _forget(self, setup: Setup, now: float) -> None:
        self.counters.calls_forgotten += 1
        self.end(setup, now)

    def _take(self, asked: Setup, now: float, *, setup: bool) -> None:
        """Charge both accounts, or none."""
        accounts = list(self._accounts_of(asked))
        for accounts_of_kind, name in accounts:
            accounts_of_kind.check(name, now, setup=setup)
        for accounts_of_kind, name in accounts:
            accounts_of_kind.take(name, now)

    def _add(self, setup: Setup, calls: int, setups: int, now: float) -> None:
        for accounts, name in self._accounts_of(setup):
            accounts.add(name, calls, setups, now)

    def _accounts_of(self, setup: Setup) -> "Iterable[tuple[_Accounts, str]]":
        if setup.tenant is not None:
            yield self._tenants, setup.tenant
        if setup.address is not None:
            yield self._addresses, setup.address
