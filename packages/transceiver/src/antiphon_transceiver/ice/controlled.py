"""ICE-lite (RFC 8445 §2.5) in the controlled role, with return routability and consent of its own.

The peer checks and nominates. We answer, and send four kinds of check ourselves: one to every new path, because a
packet's source address proves nothing until something sent there comes back; one to a path that fell silent; one every
`CONSENT_INTERVAL` to the selected path, even while media flows; and one every `BACKUP_INTERVAL` to the best path by
each other ingress than the selected path's, so that it still works, and both sides still know it, when it is needed.

| peer | nothing heard on the selected path for | then |
|---|---|---|
| connected | `PROBE_AFTER` | probe it, and the backups |
| connected | `DISCONNECT_AFTER` | another path that is alive is selected; without one: disconnected |
| disconnected | – | a sign of life from a validated path: connected |
| disconnected | `EXPIRE_AFTER` | expired, closed |
"""

from collections import deque
from collections.abc import Callable, KeysView
from dataclasses import dataclass
from enum import Enum, auto
from math import inf

from antiphon_common.control import IceParameters
from antiphon_common.core import Path, Transmit
from antiphon_common.errors import DecodeError
from antiphon_common.stun import (
    BINDING,
    TRANSACTION_ID_SIZE,
    Attribute,
    ErrorCode,
    Message,
    MessageClass,
    Transaction,
    error_response,
    success_response,
)
from antiphon_transceiver.ice.credentials import Credentials, Generation
from antiphon_transceiver.ice.events import (
    CheckAccepted,
    Disconnected,
    IceEvent,
    IceFailed,
    IceFailure,
    PathOpened,
    PathReleased,
    PathSelected,
    PathValidated,
    Reconnected,
)
from antiphon_transceiver.ice.paths import PathState, PathTable

PROBE_AFTER = 3.0
DISCONNECT_AFTER = 5.0
EXPIRE_AFTER = 30.0
"""Also the lifetime of consent (RFC 7675 §5.1), so the age at which any silent path is dropped."""

REBOUND_SILENCE = 1.0
"""Media that comes by a validated path while the selected one has been silent this long means that a NAT gave the
client another address; clients that nominate once (RFC 8445 §8.1.1) do not nominate again."""

BACKUP_INTERVAL = 10.0
"""Chromium stops checking a second ingress after a few seconds, but answers, and keeps the pair while anything came by
it in the last 30 s. Three of these fit."""

CONSENT_INTERVAL = 4.0
"""Mean seconds between two checks of the selected path. Some embedded clients hang up after 10 s without one, whatever
media arrives; so one check may get lost. Each interval varies by a fifth (RFC 7675 §5.1)."""

LONGEST_WAIT = 2.0
"""Seconds to the next transmission of a check that a silent path does not answer. Each opens the path at the relay for
what the peer sends, so a peer that comes back with media alone waits as long at most."""

PRIORITY = (110 << 24 | 0xFFFF << 8 | 0xFF).to_bytes(4, "big")
"""Of a peer-reflexive candidate of ours (RFC 8445 §5.1.2)."""


class _Peer(Enum):
    UNKNOWN = auto()
    CONNECTED = auto()
    DISCONNECTED = auto()
    EXPIRED = auto()


@dataclass(slots=True)
class ControlledAgentCounters:
    answered: int = 0
    """Authenticated requests; each was answered, with success or with an error."""
    malformed: int = 0
    ignored: int = 0
    """Indications, other methods, and messages without FINGERPRINT."""
    unknown_username: int = 0
    bad_integrity: int = 0
    role_conflicts: int = 0
    unknown_attributes: int = 0
    checks_sent: int = 0
    checks_failed: int = 0
    over_budget: int = 0
    """Checks of ours held back by the three-fold limit."""
    stray_responses: int = 0
    paths_evicted: int = 0


class ControlledAgent:
    """Answers the peer's checks and knows by which path it can be reached.

    Takes STUN datagrams only; the other packets of the call are reported by `received`, `validate` and `sent`, and
    `may_send` says whether a path takes one more. Nothing happens before the first valid check: how long to wait for
    that is the caller's business.
    """

    def __init__(
        self,
        local: IceParameters,
        remote: IceParameters,
        random: Callable[[int], bytes],
        *,
        tie_breaker: int | None = None,
    ) -> None:
        self.counters = ControlledAgentCounters()
        self.authenticated = False
        self.selected: Path | None = None
        """Where to send: the latest nominated of the validated paths. Before any is validated the latest nominated
        path, or else the first that was opened; the three-fold limit holds there. Where that one's ingress is
        unreachable, another validated path."""
        self._random = random
        self._tie_breaker = random(8) if tie_breaker is None else tie_breaker.to_bytes(8, "big")
        self._credentials = Credentials(local, remote)
        self._table = PathTable()
        self._checks: dict[bytes, PathState] = {}
        """Paths by the transaction of our check: at most one each."""
        self._checks_at = inf
        self._backups_at = inf
        self._consent_at = inf
        self._selected_at = -inf
        self._peer = _Peer.UNKNOWN
        self._last_heard = inf
        self._transmits: deque[Transmit] = deque()
        self._events: deque[IceEvent] = deque()

    @property
    def paths(self) -> KeysView[Path]:
        """The paths with an authenticated check, at most `MAX_PATHS`."""
        return self._table.paths

    @property
    def rejected_checks(self) -> bool:
        """Whether checks arrived that were not authentic."""
        return bool(self.counters.bad_integrity or self.counters.unknown_username)

    def is_validated(self, path: Path) -> bool:
        state = self._table.get(path)
        return state is not None and state.validated

    def last_heard(self, path: Path) -> float:
        """Return when something authenticated last came by a path."""
        state = self._table.get(path)
        return -inf if state is None else state.last_heard

    def add_local(self, local: IceParameters) -> IceParameters | None:
        """Begin an ICE restart (RFC 8445 §9): checks for these credentials are answered too. Call it before
        `set_remote`. Returns those that are no longer answered, if they had to make room."""
        return self._credentials.add_local(local)

    def set_remote(self, remote: IceParameters) -> None:
        """Set the peer's credentials that belong to the newest of ours."""
        self._credentials.set_remote(remote)

    # The call's other packets

    def received(self, path: Path, size: int, now: float, *, authenticated: bool) -> bool:
        """Tell of a datagram of `size` bytes that was no STUN. `authenticated`: it is a sign of life (SRTP, or DTLS
        after the handshake), not just a part of a handshake. Return whether events or datagrams are to be polled."""
        table = self._table
        state = table.states.get(path)
        if state is None:
            return False
        if state is table.preferred and state.validated and authenticated and not state.unreachable:
            if self._peer is _Peer.CONNECTED:  # most packets of a call
                state.last_heard = self._last_heard = now
                return False
        elif not state.validated:
            state.received += size
        if not authenticated:
            return False
        self._alive(state, now)
        preferred = self._table.preferred
        if state.validated and preferred is not None and now >= preferred.last_heard + REBOUND_SILENCE:
            self._move_to(state, now)
        return bool(self._events or self._transmits)

    def may_send(self, path: Path, size: int) -> bool:
        """Return whether a datagram of `size` bytes may be sent there."""
        state = self._table.states.get(path)
        return state is not None and (state.validated or state.may_send(size))

    def sent(self, path: Path, size: int) -> None:
        """Report a datagram that did not come from `poll_transmit`."""
        state = self._table.states.get(path)
        if state is not None:
            state.sent += size

    def validate(self, path: Path, now: float) -> None:
        """Tell that DTLS proved the peer to be at `path`."""
        state = self._table.get(path)
        if state is not None:
            self._validated(state, now)

    def unreachable(self, ingress: int, now: float) -> None:
        """Tell that nothing sent by way of an ingress arrives, as when no relay of it lives.

        From now on another path is selected, if a validated one by a reachable ingress is there: of those the one heard
        latest, and it is probed at once. That ends when anything authenticated is heard by a validated path of the
        ingress, save that the peer has meanwhile nominated another path, or moved its media there. Harmless when
        repeated, and for an ingress that the peer does not use.
        """
        if self._table.mark(ingress, unreachable=True):
            before = self._table.selected
            self._select(now)
            selected = self._table.selected
            if selected is not None and selected is not before:
                self._probe(selected, now)

    # The five methods

    def receive_datagram(self, data: bytes, source: Path, now: float) -> None:
        """Take a STUN datagram; what is wrong with it is counted."""
        self.authenticated = False
        if self._peer is _Peer.EXPIRED:
            return
        try:
            message = Message.decode(data)
        except DecodeError:
            self.counters.malformed += 1
            return
        if not message.fingerprinted or message.method != BINDING:
            self.counters.ignored += 1
        elif message.message_class is MessageClass.REQUEST:
            self._receive_check(message, len(data), source, now)
        elif message.message_class is MessageClass.INDICATION:
            self.counters.ignored += 1
        else:
            self._receive_response(message, source, now)

    def handle_timeout(self, now: float) -> None:
        """Retransmit, drop silent paths, judge the peer's silence."""
        if now >= self._checks_at:
            self._retransmit_checks(now)
        if now >= self._table.stale_at:
            for state in self._table.pop_stale(now, EXPIRE_AFTER):
                self._drop(state)
        if now >= self._backups_at:
            self._backups_at = inf
            for state in self._table.backups():
                self._probe(state, now)
            self._plan_backups(now)
        if now >= self._consent_at:
            self._check_consent(now)
        self._judge_silence(now)

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> IceEvent | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float:
        selected = self._table.selected
        if selected is None:
            return inf
        if self._peer is _Peer.DISCONNECTED:
            silence_at = self._last_heard + EXPIRE_AFTER
        else:
            silence_at = self._silent_since(selected) + (PROBE_AFTER if selected.check is None else DISCONNECT_AFTER)
        return min(silence_at, self._checks_at, self._backups_at, self._consent_at, self._table.stale_at)

    # The peer's checks

    def _receive_check(self, message: Message, size: int, source: Path, now: float) -> None:
        generation = self._credentials.find(message.username or b"")
        if generation is None:
            self.counters.unknown_username += 1
            return
        if not message.verify(generation.password):
            self.counters.bad_integrity += 1
            return
        self.authenticated = True
        state = self._learn(source, generation, size, now)
        answer = self._answer(message, source)
        self.counters.answered += 1
        self._events.append(CheckAccepted(source))
        self._send(answer.encode(generation.password), state)
        if answer.message_class is not MessageClass.SUCCESS:
            return
        if message.use_candidate and self._table.nominate(state):
            self._select(now)
        if not state.validated and state.check is None:
            self._check(state, now, first_wait=0.2, longest_wait=1.6, attempts=6)

    def _learn(self, source: Path, generation: Generation, size: int, now: float) -> PathState:
        state = self._table.get(source)
        if state is None:
            state = PathState(source, generation, now)
            evicted = self._table.add(state)
            self._table.stale_at = min(self._table.stale_at, now + EXPIRE_AFTER)
            if evicted is not None:
                self.counters.paths_evicted += 1
                self._drop(evicted)
            self._events.append(PathOpened(source))
            if self._table.selected is None:
                self._peer = _Peer.CONNECTED
                self._select(now)
        state.generation = generation
        if not state.validated:
            state.received += size
        self._alive(state, now)
        return state

    def _answer(self, message: Message, source: Path) -> Message:
        if unknown := message.unknown_required:
            self.counters.unknown_attributes += 1
            return error_response(message, ErrorCode.UNKNOWN_ATTRIBUTE, unknown)
        if Attribute.ICE_CONTROLLED in message.attributes:
            # RFC 8445 §7.3.1.1 compares tie-breakers, but a lite agent cannot control (§6.1.1): the peer has to yield.
            self.counters.role_conflicts += 1
            return error_response(message, ErrorCode.ROLE_CONFLICT)
        return success_response(message, source.address, source.port)

    # Our own checks

    def _check(self, state: PathState, now: float, *, first_wait: float, longest_wait: float, attempts: int) -> None:
        transaction_id = self._random(TRANSACTION_ID_SIZE)
        attributes: dict[int, bytes] = {
            Attribute.USERNAME: state.generation.username,
            Attribute.ICE_CONTROLLED: self._tie_breaker,
            Attribute.PRIORITY: PRIORITY,
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
        self._checks[transaction_id] = state
        self._checks_at = min(self._checks_at, check.deadline)
        self._send_check(check, state, now)

    def _probe(self, state: PathState, now: float) -> None:
        """Ask whether a validated path still works, unless that is under way."""
        if state.check is None:
            self._check(state, now, first_wait=0.5, longest_wait=LONGEST_WAIT, attempts=10)

    def _check_consent(self, now: float) -> None:
        """Check the selected path, unless a check of it is under way."""
        selected = self._table.selected
        if selected is None or not selected.validated:
            self._consent_at = inf
        elif selected.check is None:
            self._probe(selected, now)  # which plans the next one
        else:
            self._plan_consent(now)

    def _plan_consent(self, now: float) -> None:
        self._consent_at = now + CONSENT_INTERVAL * (0.8 + 0.4 * self._random(1)[0] / 255)

    def _send_check(self, check: Transaction, state: PathState, now: float) -> None:
        if state.validated and state is self._table.selected:
            self._plan_consent(now)
        if self._send(check.datagram, state):
            self.counters.checks_sent += 1
        else:
            self.counters.over_budget += 1

    def _end_check(self, state: PathState) -> None:
        if state.check is not None:
            del self._checks[state.check.transaction_id]
            state.check = None

    def _retransmit_checks(self, now: float) -> None:
        for state in list(self._checks.values()):
            check = state.check
            if check is None or now < check.deadline:
                continue
            if state.validated and state.last_heard > state.check_started:
                self._end_check(state)  # a probe, and the path came back to life by itself
            elif check.retransmit(now):
                self._send_check(check, state, now)
            else:
                self.counters.checks_failed += 1
                self._end_check(state)
        self._checks_at = min((state.check.deadline for state in self._checks.values() if state.check), default=inf)

    def _receive_response(self, message: Message, source: Path, now: float) -> None:
        state = self._checks.get(message.transaction_id)
        # A response by another path proves nothing (RFC 8445 §7.2.5.2.1).
        if state is None or state.check is None or state.path != source:
            self.counters.stray_responses += 1
            return
        if not message.verify(state.check_password):
            self.counters.bad_integrity += 1
            return
        self._end_check(state)
        if message.message_class is MessageClass.ERROR or message.unknown_required:
            self.counters.checks_failed += 1
            return
        self.authenticated = True
        self._validated(state, now)

    # Paths

    def _alive(self, state: PathState, now: float) -> None:
        state.last_heard = now
        selected = self._table.selected
        if not state.validated and selected is not None and selected.validated:
            return  # a captured check, replayed from a strange address, keeps nothing alive
        self._last_heard = now
        if state.unreachable and self._table.mark(state.path.ingress, unreachable=False):
            self._select(now)
        if self._peer is _Peer.DISCONNECTED:
            self._peer = _Peer.CONNECTED
            self._move_to(state, now)
            self._events.append(Reconnected())

    def _validated(self, state: PathState, now: float) -> None:
        if not state.validated:
            state.validated = True
            self._end_check(state)
            self._events.append(PathValidated(state.path))
            self._select(now)
            self._plan_backups(now)
            if state is self._table.selected:
                self._plan_consent(now)
        self._alive(state, now)

    def _move_to(self, state: PathState, now: float) -> None:
        if state is not self._table.preferred:
            self._table.nominate(state)
            self._select(now)

    def _select(self, now: float) -> None:
        if self._table.select() and self._table.selected is not None:
            self._selected_at = now
            self.selected = self._table.selected.path
            self._events.append(PathSelected(self.selected))
            self._plan_backups(now)
            self._plan_consent(now)

    def _plan_backups(self, now: float) -> None:
        if self._table.backups():
            self._backups_at = min(self._backups_at, now + BACKUP_INTERVAL)

    def _drop(self, state: PathState) -> None:
        self._end_check(state)
        self._events.append(PathReleased(state.path))

    def _send(self, datagram: bytes, state: PathState) -> bool:
        if not state.may_send(len(datagram)):
            return False
        state.sent += len(datagram)
        self._transmits.append(Transmit(datagram, state.path))
        return True

    # Silence

    def _silent_since(self, selected: PathState) -> float:
        """A backup is heard every `BACKUP_INTERVAL`: it has its time to answer from when it is selected."""
        return max(selected.last_heard, self._selected_at)

    def _judge_silence(self, now: float) -> None:
        selected = self._table.selected
        if selected is None:
            return
        if self._peer is _Peer.DISCONNECTED:
            if now >= self._last_heard + EXPIRE_AFTER:
                self._expire()
                return
        elif now >= self._silent_since(selected) + DISCONNECT_AFTER:
            alive = self._table.alive(now, DISCONNECT_AFTER)
            if alive is not None:
                self._move_to(alive, now)
                return
            self._peer = _Peer.DISCONNECTED
            self._events.append(Disconnected())
        if now >= self._silent_since(selected) + PROBE_AFTER and selected.check is None:
            for state in (selected, *self._table.backups()):
                self._probe(state, now)

    def _expire(self) -> None:
        self._peer = _Peer.EXPIRED
        self.selected = None
        for state in self._table.clear():
            self._drop(state)
        self._events.append(IceFailed(IceFailure.CONSENT_EXPIRED))
