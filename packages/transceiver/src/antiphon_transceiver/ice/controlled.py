"""ICE-lite (RFC 8445 §2.5) in the controlled role, with return routability and consent of its own.

The peer checks and nominates. We answer, and send four kinds of check ourselves: one to every new path, because a
source address is not validated until something sent there is answered; one to a path that fell silent; one every
`CONSENT_INTERVAL` to the selected path, even while media flows; and one every `STANDBY_INTERVAL` to each standby pair.
The standby pair of an ingress is its best validated path, where that ingress is not the selected path's.

| peer | nothing received by the selected path for | then |
|---|---|---|
| connected | `CHECK_AFTER` | check it, and the standby pairs |
| connected | `DISCONNECT_AFTER` | another path with fresh consent is selected; without one: disconnected |
| disconnected | – | anything authenticated by a validated path: connected |
| disconnected | `EXPIRE_AFTER` | consent expired, closed |
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
    AttributeType,
    ErrorCode,
    Message,
    MessageClass,
    error_response,
    success_response,
)
from antiphon_transceiver.ice.checks import ConsentSchedule, OutgoingChecks
from antiphon_transceiver.ice.credentials import Generation, IceCredentials
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

CHECK_AFTER = 3.0
DISCONNECT_AFTER = 5.0
EXPIRE_AFTER = 30.0
"""Also the lifetime of consent (RFC 7675 §5.1), so the age at which any silent path is released."""

REBINDING_SILENCE = 1.0
"""Media that comes by a validated path while the selected one has been silent this long means that a NAT gave the
client another address; clients that nominate once (RFC 8445 §8.1.1) do not nominate again."""

LONGEST_WAIT = 2.0
"""Seconds to the next transmission of a check that a silent path does not answer. Each opens the path at the relay for
what the peer sends, so a peer that comes back with media alone waits as long at most."""


class _Peer(Enum):
    UNKNOWN = auto()
    CONNECTED = auto()
    DISCONNECTED = auto()
    EXPIRED = auto()


@dataclass(slots=True)
class ControlledAgentCounters:
    """What became of STUN messages, by kind."""

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
    """The ICE agent of the transceiver: it answers the peer's checks and selects the path to send to.

    It takes STUN datagrams by the five methods. Report the call's other packets with `received`, `validate` and `sent`;
    `may_send` tells whether one more may be sent to a path. The agent has no deadline before the first valid check.
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
        self._credentials = IceCredentials(local, remote)
        self._table = PathTable()
        self._checks = OutgoingChecks(random, random(8) if tie_breaker is None else tie_breaker.to_bytes(8, "big"))
        self._schedule = ConsentSchedule(random)
        self._peer = _Peer.UNKNOWN
        self._last_received = inf
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
        """Return whether the peer proved to be reachable by `path`."""
        state = self._table.get(path)
        return state is not None and state.validated

    def restart(self, local: IceParameters, remote: IceParameters) -> IceParameters | None:
        """Begin another ICE generation (RFC 8445 §9): checks for these credentials are answered too. Returns the
        credentials of ours that are no longer answered, if the oldest had to make room."""
        return self._credentials.add(local, remote)

    # The call's other packets

    @property
    def settled(self) -> PathState | None:
        """The selected path while it is validated, preferred and reachable, and the peer is connected."""
        state = self._table.preferred
        if state is None or not state.validated or state.unreachable or self._peer is not _Peer.CONNECTED:
            return None
        return state

    def received(self, path: Path, size: int, now: float, *, authenticated: bool) -> bool:
        """Report a datagram of `size` bytes that was not STUN. `authenticated`: it was SRTP, or DTLS after the
        handshake, and renews consent. Return True if events or datagrams are to be polled."""
        table = self._table
        state = table.states.get(path)
        if state is None:
            return False
        if not state.validated:
            state.received += size
        if not authenticated:
            return False
        self._note_received(state, now)
        preferred = table.preferred
        if state.validated and preferred is not None and now >= preferred.last_received + REBINDING_SILENCE:
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
        """Report that DTLS proved the peer to be at `path`."""
        state = self._table.get(path)
        if state is not None:
            self._validated(state, now)

    def unreachable(self, ingress: int, now: float) -> None:
        """Report that nothing sent by way of an ingress arrives, as when all its relays are down.

        From now on a validated path by a reachable ingress is selected, if there is one: the one received from last.
        It is checked at once. That ends when something authenticated is received by a validated path of the ingress,
        unless the peer has meanwhile nominated another path, or moved its media there. Harmless when repeated, and for
        an ingress that the peer does not use.
        """
        if self._table.mark(ingress, unreachable=True):
            before = self._table.selected
            self._select(now)
            selected = self._table.selected
            if selected is not None and selected is not before:
                self._check_validated(selected, now)

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
        """Send the checks that are due, release silent paths, and act on the peer's silence."""
        if now >= self._checks.deadline:
            self._retransmit_checks(now)
        if now >= self._table.stale_at:
            for state in self._table.pop_stale(now, EXPIRE_AFTER):
                self._release(state)
        if now >= self._schedule.standby_at:
            self._schedule.standby_at = inf
            for state in self._table.standby_pairs():
                self._check_validated(state, now)
            self._plan_standby(now)
        if now >= self._schedule.selected_at:
            self._check_selected(now)
        self._handle_silence(now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> IceEvent | None:
        """Return the next event, or None."""
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float:
        """Return when `handle_timeout` wants to be called; infinity for never."""
        selected = self._table.selected
        if selected is None:
            return inf
        if self._peer is _Peer.DISCONNECTED:
            silence_at = self._last_received + EXPIRE_AFTER
        else:
            silence_at = self._table.silent_since + (CHECK_AFTER if selected.check is None else DISCONNECT_AFTER)
        schedule = self._schedule
        return min(silence_at, self._checks.deadline, schedule.standby_at, schedule.selected_at, self._table.stale_at)

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
        state = self._note_check(source, generation, size, now)
        answer = _answer(message, source, self.counters)
        self.counters.answered += 1
        self._events.append(CheckAccepted(source))
        self._send(answer.encode(generation.password), state)
        if answer.message_class is not MessageClass.SUCCESS:
            return
        if message.use_candidate and self._table.nominate(state):
            self._select(now)
        if not state.validated and state.check is None:
            check = self._checks.begin(state, now, first_wait=0.2, longest_wait=1.6, attempts=6)
            self._send_check(check.datagram, state, now)

    def _note_check(self, source: Path, generation: Generation, size: int, now: float) -> PathState:
        state = self._table.get(source)
        if state is None:
            state = PathState(source, generation, now)
            evicted = self._table.add(state)
            self._table.stale_at = min(self._table.stale_at, now + EXPIRE_AFTER)
            if evicted is not None:
                self.counters.paths_evicted += 1
                self._release(evicted)
            self._events.append(PathOpened(source))
            if self._table.selected is None:
                self._peer = _Peer.CONNECTED
                self._select(now)
        state.generation = generation
        if not state.validated:
            state.received += size
        self._note_received(state, now)
        return state

    # Our own checks

    def _check_validated(self, state: PathState, now: float) -> None:
        """Send a consent check to a validated path, unless one is under way."""
        if state.check is None:
            check = self._checks.begin(state, now, first_wait=0.5, longest_wait=LONGEST_WAIT, attempts=10)
            self._send_check(check.datagram, state, now)

    def _check_selected(self, now: float) -> None:
        """Send a consent check to the selected path, unless one is under way."""
        selected = self._table.selected
        if selected is None or not selected.validated:
            self._schedule.selected_at = inf
        elif selected.check is None:
            self._check_validated(selected, now)  # which plans the next one
        else:
            self._schedule.plan_selected(now)

    def _plan_standby(self, now: float) -> None:
        if self._table.standby_pairs():
            self._schedule.plan_standby(now)

    def _send_check(self, datagram: bytes, state: PathState, now: float) -> None:
        if state.validated and state is self._table.selected:
            self._schedule.plan_selected(now)
        if self._send(datagram, state):
            self.counters.checks_sent += 1
        else:
            self.counters.over_budget += 1

    def _retransmit_checks(self, now: float) -> None:
        for state, check in self._checks.due(now):
            if state.validated and state.last_received > state.check_started:
                self._checks.end(state)  # something else was received by the path meanwhile
            elif check.retransmit(now):
                self._send_check(check.datagram, state, now)
            else:
                self.counters.checks_failed += 1
                self._checks.end(state)
        self._checks.update_deadline()

    def _receive_response(self, message: Message, source: Path, now: float) -> None:
        state = self._checks.find(message.transaction_id)
        # A response by another path proves nothing (RFC 8445 §7.2.5.2.1).
        if state is None or state.path != source:
            self.counters.stray_responses += 1
            return
        if not message.verify(state.check_password):
            self.counters.bad_integrity += 1
            return
        self._checks.end(state)
        if message.message_class is MessageClass.ERROR or message.unknown_required:
            self.counters.checks_failed += 1
            return
        self.authenticated = True
        self._validated(state, now)

    # Paths

    def _note_received(self, state: PathState, now: float) -> None:
        state.last_received = now
        selected = self._table.selected
        if not state.validated and selected is not None and selected.validated:
            return  # a captured check, replayed from a spoofed source, renews no consent
        self._last_received = now
        if state.unreachable and self._table.mark(state.path.ingress, unreachable=False):
            self._select(now)
        if self._peer is _Peer.DISCONNECTED:
            self._peer = _Peer.CONNECTED
            self._move_to(state, now)
            self._events.append(Reconnected())

    def _validated(self, state: PathState, now: float) -> None:
        if not state.validated:
            state.validated = True
            self._checks.end(state)
            self._events.append(PathValidated(state.path))
            self._select(now)
            self._plan_standby(now)
            if state is self._table.selected:
                self._schedule.plan_selected(now)
        self._note_received(state, now)

    def _move_to(self, state: PathState, now: float) -> None:
        if state is not self._table.preferred:
            self._table.nominate(state)
            self._select(now)

    def _select(self, now: float) -> None:
        if self._table.select(now) and self._table.selected is not None:
            self.selected = self._table.selected.path
            self._events.append(PathSelected(self.selected))
            self._plan_standby(now)
            self._schedule.plan_selected(now)

    def _release(self, state: PathState) -> None:
        self._checks.end(state)
        self._events.append(PathReleased(state.path))

    def _send(self, datagram: bytes, state: PathState) -> bool:
        if not state.may_send(len(datagram)):
            return False
        state.sent += len(datagram)
        self._transmits.append(Transmit(datagram, state.path))
        return True

    # Silence

    def _handle_silence(self, now: float) -> None:
        table = self._table
        selected = table.selected
        if selected is None:
            return
        if self._peer is _Peer.DISCONNECTED:
            if now >= self._last_received + EXPIRE_AFTER:
                self._peer, self.selected = _Peer.EXPIRED, None
                for state in table.clear():
                    self._release(state)
                self._events.append(IceFailed(IceFailure.CONSENT_EXPIRED))
                return
        elif now >= table.silent_since + DISCONNECT_AFTER:
            fresh = table.fresh(now, DISCONNECT_AFTER)
            if fresh is not None:
                self._move_to(fresh, now)
                return
            self._peer = _Peer.DISCONNECTED
            self._last_received = max(self._last_received, selected.last_received)
            self._events.append(Disconnected())
        if now >= table.silent_since + CHECK_AFTER and selected.check is None:
            for state in (selected, *table.standby_pairs()):
                self._check_validated(state, now)


def _answer(message: Message, source: Path, counters: ControlledAgentCounters) -> Message:
    """Return the answer to an authenticated check, and count what is wrong with it."""
    if unknown := message.unknown_required:
        counters.unknown_attributes += 1
        return error_response(message, ErrorCode.UNKNOWN_ATTRIBUTE, unknown)
    if AttributeType.ICE_CONTROLLED in message.attributes:
        # RFC 8445 §7.3.1.1 compares tie-breakers, but a lite agent cannot control (§6.1.1): the peer has to yield.
        counters.role_conflicts += 1
        return error_response(message, ErrorCode.ROLE_CONFLICT)
    return success_response(message, source.address, source.port)
