"""The transceiver as one protocol core: link datagrams in and out, every call of the process in between.

A datagram finds its call by its path, a binding request by the ufrag that it names, a frame by its call id. A path has
no state before its call has authenticated a check from there, so that spoofed sources fill no table.
"""

from collections import deque
from collections.abc import Callable, Iterator
from math import inf
from typing import NamedTuple

from antiphon_common.control import CallAccepted, CallRequest, CallStatus, IceParameters
from antiphon_common.core import Path
from antiphon_common.errors import DecodeError
from antiphon_common.link import (
    DOWNLINK,
    HEADER_SIZE,
    MESSAGE,
    PATH_START,
    PATH_STOP,
    Disown,
    LinkKeys,
    RelayHello,
    decode_message,
)
from antiphon_common.routing import Owner, RouteTokens
from antiphon_common.stun import peek_username
from antiphon_common.timers import DeadlineQueue
from antiphon_transceiver import events, ice, relays, transport_events
from antiphon_transceiver.backends.call import BackendCall, InboundFrame
from antiphon_transceiver.call import Call
from antiphon_transceiver.call_paths import CallPaths
from antiphon_transceiver.call_table import CallTable
from antiphon_transceiver.core_totals import CoreTotals
from antiphon_transceiver.counters import CallRouterCounters
from antiphon_transceiver.dtls import Certificate
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.relays import Address, Relays
from antiphon_transceiver.tokens import OwnTokens

LAST_STUN_BYTE = 3
"""First bytes above it are not STUN's (RFC 7983 §7)."""

WALL_TIME_INTERVAL = 1.0
"""`handle_timeout` is due at least this often, since it brings the wall time. Keys begin and retire by it, with seconds
to spare."""

CALLER_OVER_BUDGET = "for too long more arrived from the caller's addresses than one call may cost"

Random = Callable[[int], bytes]


class LinkDatagram(NamedTuple):
    """One datagram of the link socket: what it holds, and the relay it came from or goes to."""

    data: bytes
    relay: Address


class CallConnected(NamedTuple):
    """A call's handshake finished; `path` is where it sends."""

    call: Call
    event: transport_events.Connected
    path: Path | None


class CallThrottled(NamedTuple):
    """A call exceeds its budget, for the first time."""

    call: Call


class CallReported(NamedTuple):
    """Something happened in a call that is worth a line in the log."""

    call: Call
    event: events.MediaStarted | events.MediaMissing | events.MediaEnded | ice.Disconnected | ice.Reconnected


class CallEnded(NamedTuple):
    """A call ended. `error` is the exception in its own code that ended it, if one did."""

    call: Call
    reason: EndReason
    detail: str
    error: Exception | None


class CallRaised(NamedTuple):
    """The code of a call that had ended raised an exception."""

    call: Call
    error: Exception


Event = CallConnected | CallThrottled | CallReported | CallEnded | CallRaised | relays.TableEvent


class CallRouter:
    """Every call of one process. A shell drives it by the five methods, and places calls.

    `unix_now` is Unix time in seconds, by which keys begin and retire. Each `handle_timeout` brings it up to date, at
    least once in `WALL_TIME_INTERVAL`. `ntp_offset` added to `now` gives NTP time. It does not follow a wall clock that
    is set, since callers compare one report with another.
    """

    def __init__(
        self,
        owner: Owner,
        tokens: RouteTokens,
        link_keys: LinkKeys,
        certificate: Certificate,
        random: Random,
        *,
        unix_now: float,
        ntp_offset: float,
    ) -> None:
        self.counters = CallRouterCounters()
        self.core_totals = CoreTotals()
        self.relays = Relays(owner)
        self.paths = CallPaths(self.relays)
        self.tokens = OwnTokens(owner, tokens, random)
        self._link_keys = link_keys
        self._certificate = certificate
        self._random = random
        self._unix_now = unix_now
        self._wall_time_due = 0.0
        self._ntp_offset = ntp_offset
        self._calls = CallTable()
        self._deadlines: DeadlineQueue[Call] = DeadlineQueue()
        self._relays_due = inf
        """When the relays want to be called."""
        self._delivering: Address | None = None
        """The relay of the latest packet since the last timeout. Of consecutive packets only the first is noted."""
        self._outbox: deque[LinkDatagram] = deque()
        self._events: deque[Event] = deque()

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls)

    # Calls

    def place(self, request: CallRequest, backend: BackendCall, now: float) -> CallAccepted:
        """Make the call of an offer, once a backend has a slot for it; return our side of the answer.

        Raises LocalProtocolError when the call id is taken.
        """
        self._calls.check_free(request.call_id)
        local = self.tokens.mint(self._calls.by_ufrag, self._unix_now)
        call = Call(request, local, self._certificate, backend, self._random, self._ntp_offset, now)
        self._calls.add(call)
        self.core_totals.begin(call)
        self._deadlines.set(call, call.deadline)
        return call.answer

    def restart_ice(self, call: Call, remote: IceParameters, now: float) -> CallAccepted | None:
        """Begin another ICE generation (RFC 8445 §9); return the answer with its credentials. None: the call failed.

        Raises TooManyRestarts when the call has restarted ICE too often.
        """
        call.restarts.count(now)
        local = self.tokens.mint(self._calls.by_ufrag, self._unix_now)
        restart = call.restart_ice(local, remote, now)
        if restart is not None:
            self._calls.add_ufrag(call, local.ufrag.encode("ascii"))
            if restart.evicted is not None:
                self._calls.remove_ufrag(call, restart.evicted.ufrag.encode("ascii"))
        self._flush(call, now)
        return None if restart is None else restart.answer

    def receive_frame(self, backend: BackendCall, frame: InboundFrame, now: float) -> None:
        """Take a frame of a backend's call."""
        call = self._calls.by_id.get(backend.call_id)
        if call is not None:
            call.receive_frame(frame, now)
            if call.transmits or call.events:
                self._flush(call, now)
            else:
                self._deadlines.set(call, call.deadline)

    def announce_end(self, call: Call, code: str, message: str, now: float) -> None:
        """Send the caller the reason why its call is about to end, if there is a data channel."""
        call.announce_end(code, message, now)
        self._flush(call, now)

    def end(self, call: Call, reason: EndReason, detail: str, now: float) -> None:
        """End a call."""
        call.end(reason, detail, now)
        self._flush(call, now)

    def inspect(self, look: Callable[[Call, float], None], now: float) -> None:
        """Show each running call to a function that only reads."""
        for call in list(self._calls):
            call.inspect(look, now)
            self._flush(call, now)

    def find(self, call_id: str, tenant: str) -> Call | None:
        """Return a tenant's running call; None also where the call is another tenant's."""
        return self._calls.find(call_id, tenant)

    def status(self, call_id: str, tenant: str, now: float) -> CallStatus | None:
        """Return the state of a tenant's call, running or recently ended."""
        call = self.find(call_id, tenant)
        if call is not None:
            status = call.status()
            self._flush(call, now)
            if status is not None:
                return status
        return self._calls.last_status(call_id, tenant)

    # The five methods, on link datagrams

    def receive_datagram(self, data: bytes, relay: Address, now: float) -> None:
        """Take one datagram of the link socket."""
        self.counters.received += 1
        if len(data) <= HEADER_SIZE:
            self.counters.too_short += 1
        elif data[0] & MESSAGE:
            self._receive_message(data, relay, now)
        elif data[0] & DOWNLINK:
            self.counters.downlink += 1
        elif not self._link_keys.verify(data, self._unix_now):
            self.counters.bad_tag += 1
        else:
            if relay != self._delivering:
                self._receive_from(relay, now)
            payload = data[HEADER_SIZE:]
            ufrag = peek_username(payload) if payload[0] <= LAST_STUN_BYTE else None
            if ufrag is None:
                self._receive_by_path(payload, data[PATH_START:PATH_STOP], relay, now)
            else:
                self._receive_check(payload, ufrag, data[PATH_START:PATH_STOP], relay, now)

    def handle_timeout(self, now: float, unix_now: float) -> None:
        """Do what is due: at the relays, in each call, and for paths that expire. `unix_now` is the wall time."""
        self._unix_now = unix_now
        self._wall_time_due = now + WALL_TIME_INTERVAL
        self._delivering = None
        if now >= self._relays_due:
            self.relays.handle_timeout(now)
            self._flush_relays(now)
        for call in self._deadlines.pop_due(now):
            call.handle_timeout(now)
            self._flush(call, now)
        self.paths.expire(now)

    def poll_transmit(self) -> LinkDatagram | None:
        """Return the next datagram for the link socket, or None."""
        return self._outbox.popleft() if self._outbox else None

    def poll_event(self) -> Event | None:
        """Return the next event, or None."""
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float:
        """Return when `handle_timeout` is due, in seconds."""
        return min(self._deadlines.next(), self._relays_due, self._wall_time_due)

    # Uplink

    def _receive_by_path(self, payload: bytes, key: bytes, relay: Address, now: float) -> None:
        call = self.paths.lookup(key)
        if call is None:
            self.counters.unknown_path += 1
        elif not call.budget.admit(payload, now):
            self._throttle(call, now)
        else:
            route = call.routes_by_key[key]
            call.receive_datagram(payload, route.path, now)
            if route.relay != relay and call.authenticated:
                route.relay = relay  # what is authenticated goes back the way it came
            if call.transmits or call.events:
                self._flush(call, now)
            else:
                self._deadlines.set(call, call.deadline)

    def _receive_check(self, payload: bytes, ufrag: bytes, key: bytes, relay: Address, now: float) -> None:
        call = self._calls.by_ufrag.get(ufrag)
        if call is None:
            self.counters.unknown_ufrag += 1
            self._disown(ufrag, relay)
        elif not self.paths.may_answer(key, call, now):
            self.counters.foreign_path += 1
        elif not call.budget.admit(payload, now):
            self._throttle(call, now)
        else:
            self._check(call, payload, key, relay, now)
            self._flush(call, now)

    def _disown(self, ufrag: bytes, relay: Address) -> None:
        """Report to a relay that a token of ours leads to no call any more."""
        if self.tokens.made(ufrag, self._unix_now):
            datagram = self._link_keys.encode(Disown(ufrag), self._unix_now)
            self._outbox.append(LinkDatagram(datagram, relay))
            self.counters.disowned += 1

    def _check(self, call: Call, payload: bytes, key: bytes, relay: Address, now: float) -> None:
        """Let a call verify a check. Only an authenticated check leaves state of its path."""
        route = call.routes_by_key.get(key)
        path = Path.decode(key) if route is None else route.path
        call.receive_datagram(payload, path, now)
        if not call.authenticated or path not in call.agent.paths:
            return
        header = self._link_keys.header(path, DOWNLINK, self._unix_now)
        self.paths.open_route(call, path, key, relay, header, now)

    def _throttle(self, call: Call, now: float) -> None:
        """Count a datagram that its call cannot pay; end a call that has been over its budget for too long."""
        self.counters.throttled += 1
        if call.budget.refused == 1:
            self._events.append(CallThrottled(call))
        if call.budget.exhausted:
            self.end(call, EndReason.OVER_BUDGET, CALLER_OVER_BUDGET, now)

    # Downlink

    def _flush(self, call: Call, now: float) -> None:
        """Send what a call has queued, handle its events, and note when it wants to be called."""
        transmits, happened = call.transmits, call.events
        while transmits:
            data, path = transmits.popleft()
            route = call.routes.get(path) if path is not None else None
            if route is not None:
                self._outbox.append(LinkDatagram(route.header + data, route.relay))
                if call.disconnected:
                    self.paths.hold_path(call, route.path, now)
        while happened:
            self._handle(call, happened.popleft(), now)
        self._deadlines.set(call, call.deadline)
        if self.relays.announcements.notices:
            self._flush_relays(now)

    def _handle(self, call: Call, event: events.CallEvent, now: float) -> None:
        match event:
            case ice.PathValidated(path):
                self.paths.confirm_path(call, path, now)
            case ice.PathReleased(path):
                self.paths.release_path(call, path)
            case transport_events.Connected():
                self._events.append(CallConnected(call, event, call.agent.selected))
            case events.Terminated(reason, detail):
                self._remove(call)
                self._events.append(CallEnded(call, reason, detail, None))
            case events.Failed(error):
                self.paths.release_failed(call)
                self._remove(call)
                self._events.append(CallEnded(call, EndReason.INTERNAL_ERROR, repr(error), error))
            case events.Raised(error):
                self.paths.release_failed(call)
                self._events.append(CallRaised(call, error))
            case (
                events.MediaStarted()
                | events.MediaMissing()
                | events.MediaEnded()
                | ice.Disconnected()
                | ice.Reconnected()
            ):
                self._events.append(CallReported(call, event))

    # Relays

    def _receive_from(self, relay: Address, now: float) -> None:
        """Note that a relay forwards packets, and flush the relays if it had been silent."""
        self._delivering = relay
        table = self.relays.table
        table.receive_packet(relay, now)
        if table.events or table.silent_at < self._relays_due:
            self._flush_relays(now)

    def claim_calls(self, previous: Owner, now: float) -> None:
        """Have relays send here what is for calls whose tokens name `previous`.

        Raises LocalProtocolError when `previous` is this transceiver, or one owner too many.
        """
        self.relays.announcements.claim_calls(previous, now)
        self._flush_relays(now)

    def _receive_message(self, data: bytes, relay: Address, now: float) -> None:
        self.counters.messages += 1
        if self.relays.table.repeats_hello(data, relay, now):
            self._flush_relays(now)
            return
        if not self._link_keys.verify(data, self._unix_now):
            self.counters.bad_tag += 1
            return
        try:
            message = decode_message(data[HEADER_SIZE:])
        except DecodeError:
            self.counters.malformed_messages += 1
            return
        if isinstance(message, RelayHello):
            self.relays.receive_hello(message, relay, now, data)
            self._flush_relays(now)
        else:
            self.counters.skipped_messages += 1

    def _flush_relays(self, now: float) -> None:
        """Send what relays have to learn, handle their events, and note when they want to be called."""
        while (notice := self.relays.poll_transmit()) is not None:
            datagram = self._link_keys.encode(notice.message, self._unix_now)
            self._outbox.extend(LinkDatagram(datagram, relay) for relay in notice.relays)
        self._relays_due = self.relays.poll_timeout()
        while (event := self.relays.poll_event()) is not None:
            if isinstance(event, relays.RoutesChanged):
                self.counters.rerouted += event.count
                continue
            self._events.append(event)
            if isinstance(event, relays.IngressLost):
                self._leave_ingress(event.ingress, now)

    def _leave_ingress(self, lost: int, now: float) -> None:
        """Have every call send over another ingress than one that is lost."""
        for call in list(self._calls):
            self.counters.diverted += bool(call.switch_ingress(lost, now))
            self._flush(call, now)

    def _remove(self, call: Call) -> None:
        assert call.last_status is not None  # an ended call has one
        self.paths.remove_call(call)
        self._calls.remove(call, call.last_status)
        self.core_totals.end(call)
