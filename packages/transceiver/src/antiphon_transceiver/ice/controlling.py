"""A full ICE agent in the controlling role, for one component (RFC 8445), with regular nomination and consent.

Checks go to the candidates in the order given, one each `PACING` seconds. The first that answers is nominated; once
that is answered too, the agent is connected, and checks consent for as long as it lives (RFC 7675).
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from math import inf

from antiphon_common.control import IceParameters
from antiphon_common.core import Path, Transmit
from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_common.stun import (
    BINDING,
    TRANSACTION_ID_SIZE,
    AttributeType,
    ErrorCode,
    Message,
    MessageClass,
    Transaction,
    error_response,
    success_response,
)
from antiphon_transceiver.ice.checks import PRIORITY, vary
from antiphon_transceiver.ice.events import (
    CheckAccepted,
    IceEvent,
    IceFailed,
    IceFailure,
    PathSelected,
    PathValidated,
)
from antiphon_transceiver.ice.paths import PathState

PACING = 0.05
"""Seconds between the first checks to two candidates: Ta of RFC 8445 §14.2."""

CONSENT_INTERVAL = 5.0
CONSENT_LIFETIME = 30.0
"""Seconds (RFC 7675 §5.1)."""

MAX_CANDIDATES = 32
"""A fleet advertises a handful of addresses; peer-reflexive ones join them."""


@dataclass(slots=True)
class ControllingAgentCounters:
    """What became of STUN messages and candidates, by kind."""

    malformed: int = 0
    unauthenticated: int = 0
    """Requests for another ufrag, and whatever has a wrong MESSAGE-INTEGRITY."""
    stray: int = 0
    """Responses to nothing, or by another path; indications."""
    checks_sent: int = 0
    answered: int = 0
    candidates_refused: int = 0


class _State(Enum):
    WAITING = auto()
    IN_PROGRESS = auto()
    SUCCEEDED = auto()
    FAILED = auto()


class _Pair:
    """A candidate pair: our only local candidate with one of the peer's."""

    __slots__ = ("check", "nominating", "path", "state")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = _State.WAITING
        self.check: Transaction | None = None
        self.nominating = False


class ControllingAgent:
    """The ICE agent of the test client: it checks the peer's candidates, nominates one, and keeps consent fresh.

    `start` it with the answer and drive it by the five methods, which take STUN datagrams only. A path is a transport
    address of the peer, with ingress 0.
    """

    def __init__(
        self,
        local: IceParameters,
        random: Callable[[int], bytes],
        *,
        consent_interval: float = CONSENT_INTERVAL,
        consent_use_candidate: bool = True,
        tie_breaker: int | None = None,
    ) -> None:
        """`consent_interval` is in seconds and varies by a fifth. `consent_use_candidate`: whether consent checks carry
        USE-CANDIDATE, as Chromium's do, or not, as Firefox's."""
        self.counters = ControllingAgentCounters()
        self.authenticated = False
        self.selected: Path | None = None
        """The pair that was nominated last; still that of the generation before while a restart is under way."""
        self.mapped: tuple[bytes, int] | None = None
        """Our own address and port as the peer reported them last (XOR-MAPPED-ADDRESS)."""
        self._local_ufrag = local.ufrag.encode()
        self._local_password = local.password.encode()
        self._remote_password = b""
        self._username = b""
        self._random = random
        self._tie_breaker = random(8) if tie_breaker is None else tie_breaker.to_bytes(8, "big")
        self._consent_interval = consent_interval
        self._consent_use_candidate = consent_use_candidate
        self._pairs: dict[Path, _Pair] = {}
        self._nominated = False
        """Whether a pair of this generation was nominated, and that was answered."""
        self._next_check_at = inf
        self._consent_check: bytes | None = None
        self._consent_check_at = inf
        self._consent_expires_at = inf
        self._closed = False
        self._transmits: deque[Transmit] = deque()
        self._events: deque[IceEvent] = deque()

    @property
    def paths(self) -> Collection[Path]:
        """The candidates of the peer, at most `MAX_CANDIDATES`, and the selected path."""
        return self._pairs.keys() if self.selected is None else self._pairs.keys() | {self.selected}

    @property
    def rejected_checks(self) -> bool:
        """Whether checks arrived that were not authentic."""
        return self.counters.unauthenticated > 0

    def is_validated(self, path: Path) -> bool:
        """Return whether the peer answered a check of ours to `path`."""
        pair = self._pairs.get(path)
        return pair is not None and pair.state is _State.SUCCEEDED

    # The call's other packets

    @property
    def settled(self) -> PathState | None:
        """None: this agent keeps no state of paths that received packets renew."""
        return None

    def received(self, path: Path, size: int, now: float, *, authenticated: bool) -> bool:
        """Ignore other datagrams: only checks select a path and renew consent (RFC 7675 §5.1)."""
        return False

    def may_send(self, path: Path, size: int) -> bool:
        """Return True: the three-fold limit is that of servers."""
        return True

    def sent(self, path: Path, size: int) -> None:
        """Ignore what was sent, since nothing limits it."""

    def validate(self, path: Path, now: float) -> None:
        """Ignore what DTLS proved: a path is validated by a check before it is selected."""

    # Local actions

    def restart(self, local: IceParameters) -> None:
        """Begin another ICE generation (RFC 8445 §9). `selected` stays until `start` has led to another nomination."""
        self._local_ufrag, self._local_password = local.ufrag.encode(), local.password.encode()
        self._remote_password = self._username = b""
        self._pairs.clear()
        self._nominated = False
        self._next_check_at = self._consent_check_at = self._consent_expires_at = inf
        self._consent_check = None

    def start(self, remote: IceParameters, candidates: Iterable[Path], now: float) -> None:
        """Begin to check the candidates in their order; `add_candidate` adds more."""
        self._remote_password = remote.password.encode()
        self._username = f"{remote.ufrag}:".encode() + self._local_ufrag
        self._next_check_at = now
        for candidate in candidates:
            self.add_candidate(candidate)
        self._check_next(now)

    def add_candidate(self, path: Path) -> None:
        """Add a candidate of the peer; it is checked after the others. Beyond `MAX_CANDIDATES` it is counted."""
        if path in self._pairs:
            return
        if len(self._pairs) >= MAX_CANDIDATES:
            self.counters.candidates_refused += 1
            return
        self._pairs[path] = _Pair(path)

    def nominate(self, path: Path, now: float) -> None:
        """Nominate another candidate, checked or not. Raises LocalProtocolError for a path that is no candidate."""
        pair = self._pairs.get(path)
        if pair is None:
            raise LocalProtocolError(f"{path} is no candidate")
        self._check(pair, now, nominating=True)

    # The five methods

    def receive_datagram(self, data: bytes, source: Path, now: float) -> None:
        """Take a STUN datagram; what is wrong with it is counted."""
        self.authenticated = False
        if self._closed:
            return
        try:
            message = Message.decode(data)
            if not message.fingerprinted or message.method != BINDING:
                self.counters.malformed += 1
            elif message.message_class is MessageClass.REQUEST:
                self._receive_request(message, source, now)
            elif message.message_class is MessageClass.INDICATION:
                self.counters.stray += 1
            else:
                self._receive_response(message, source, now)
        except DecodeError:
            self.counters.malformed += 1

    def handle_timeout(self, now: float) -> None:
        """Check the next candidate, retransmit checks, and renew consent."""
        if self._closed:
            return
        if now >= self._next_check_at:
            self._check_next(now)
        for pair in self._pairs.values():
            if pair.check is not None and now >= pair.check.deadline:
                self._retransmit(pair, pair.check, now)
        if now >= self._consent_expires_at:
            self._fail(IceFailure.CONSENT_EXPIRED)
        elif now >= self._consent_check_at:
            self._check_consent(now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> IceEvent | None:
        """Return the next event, or None."""
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float:
        """Return when `handle_timeout` wants to be called; infinity for never."""
        if self._closed:
            return inf
        checks = min((pair.check.deadline for pair in self._pairs.values() if pair.check is not None), default=inf)
        return min(self._next_check_at, checks, self._consent_check_at, self._consent_expires_at)

    # Our checks

    def _check_next(self, now: float) -> None:
        waiting = [pair for pair in self._pairs.values() if pair.state is _State.WAITING]
        if waiting:
            self._check(waiting[0], now)
        self._next_check_at = now + PACING if len(waiting) > 1 else inf

    def _check(self, pair: _Pair, now: float, *, nominating: bool = False) -> None:
        transaction_id, datagram = self._request(use_candidate=nominating)
        pair.check = Transaction(transaction_id, datagram, now, first_wait=0.2, longest_wait=1.6, attempts=7)
        pair.nominating = nominating
        if pair.state is not _State.SUCCEEDED:
            pair.state = _State.IN_PROGRESS
        self._send_check(datagram, pair.path)

    def _request(self, *, use_candidate: bool) -> tuple[bytes, bytes]:
        transaction_id = self._random(TRANSACTION_ID_SIZE)
        attributes: dict[int, bytes] = {
            AttributeType.USERNAME: self._username,
            AttributeType.ICE_CONTROLLING: self._tie_breaker,
            AttributeType.PRIORITY: PRIORITY,
        }
        if use_candidate:
            attributes[AttributeType.USE_CANDIDATE] = b""
        message = Message(MessageClass.REQUEST, transaction_id, attributes)
        return transaction_id, message.encode(self._remote_password)

    def _send_check(self, datagram: bytes, path: Path) -> None:
        self.counters.checks_sent += 1
        self._transmits.append(Transmit(datagram, path))

    def _retransmit(self, pair: _Pair, check: Transaction, now: float) -> None:
        if check.retransmit(now):
            self._send_check(check.datagram, pair.path)
            return
        pair.check = None
        pair.state = _State.FAILED
        self._nominate_best(now)

    def _receive_response(self, message: Message, source: Path, now: float) -> None:
        pair = self._pairs.get(source)
        consent = message.transaction_id == self._consent_check and source == self.selected
        check = pair is not None and pair.check is not None and pair.check.transaction_id == message.transaction_id
        if pair is None or not (consent or check):
            self.counters.stray += 1
            return
        if not message.verify(self._remote_password):
            self.counters.unauthenticated += 1
            return
        if message.message_class is MessageClass.ERROR:
            self._receive_error(message, pair, now)
            return
        self.authenticated = True
        self.mapped = message.xor_mapped_address
        if consent:
            self._consent_expires_at = now + CONSENT_LIFETIME
        else:
            self._succeed(pair, now)

    def _receive_error(self, message: Message, pair: _Pair, now: float) -> None:
        code = message.error_code
        if code is not None and code[0] == ErrorCode.ROLE_CONFLICT:
            self._fail(IceFailure.ROLE_CONFLICT)
        elif pair.check is not None and pair.check.transaction_id == message.transaction_id:
            pair.check = None
            pair.state = _State.FAILED
            self._nominate_best(now)

    def _succeed(self, pair: _Pair, now: float) -> None:
        pair.check = None
        if pair.state is not _State.SUCCEEDED:
            pair.state = _State.SUCCEEDED
            self._events.append(PathValidated(pair.path))
        if not pair.nominating:
            self._nominate_best(now)
            return
        pair.nominating = False
        self._nominated = True
        self.selected = pair.path
        for other in self._pairs.values():
            other.check = None
        self._next_check_at = inf
        self._consent_expires_at = now + CONSENT_LIFETIME
        self._consent_check_at = now + vary(self._consent_interval, self._random)
        self._events.append(PathSelected(pair.path))

    # Nomination

    def _nominate_best(self, now: float) -> None:
        """Nominate the first candidate that answered; fail once none can any more."""
        pairs = self._pairs.values()
        if self._nominated or any(pair.nominating and pair.check is not None for pair in pairs):
            return
        best = next((pair for pair in pairs if pair.state is _State.SUCCEEDED), None)
        if best is not None:
            self._check(best, now, nominating=True)
        elif all(pair.state is _State.FAILED for pair in pairs):
            self._fail(IceFailure.NO_ANSWER)

    # Consent (RFC 7675 §5.1: a new transaction each time, none retransmitted)

    def _check_consent(self, now: float) -> None:
        assert self.selected is not None
        self._consent_check, datagram = self._request(use_candidate=self._consent_use_candidate)
        self._send_check(datagram, self.selected)
        self._consent_check_at = now + vary(self._consent_interval, self._random)

    # The peer's checks

    def _receive_request(self, message: Message, source: Path, now: float) -> None:
        ufrag, _, _ = (message.username or b"").partition(b":")
        if ufrag != self._local_ufrag or not message.verify(self._local_password):
            self.counters.unauthenticated += 1
            return
        self.authenticated = True
        tie_breaker = message.ice_controlling
        if unknown := message.unknown_required:
            response = error_response(message, ErrorCode.UNKNOWN_ATTRIBUTE, unknown)
        elif tie_breaker is not None and self._tie_breaker >= tie_breaker.to_bytes(8, "big"):
            response = error_response(message, ErrorCode.ROLE_CONFLICT)
        elif tie_breaker is not None:
            self._fail(IceFailure.ROLE_CONFLICT)
            return
        else:
            response = success_response(message, source.address, source.port)
        self.counters.answered += 1
        self._events.append(CheckAccepted(source))
        self._transmits.append(Transmit(response.encode(self._local_password), source))
        if response.message_class is MessageClass.SUCCESS and self._username and not self._nominated:
            self._trigger_check(source, now)

    def _trigger_check(self, source: Path, now: float) -> None:
        """Check at once where a check came from (RFC 8445 §7.3.1.4); that may be a new, peer-reflexive candidate."""
        self.add_candidate(source)
        pair = self._pairs.get(source)
        if pair is not None and pair.state in (_State.WAITING, _State.FAILED):
            self._check(pair, now)

    def _fail(self, reason: IceFailure) -> None:
        self._closed = True
        self._events.append(IceFailed(reason))
