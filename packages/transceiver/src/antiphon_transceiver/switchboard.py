"""The transceiver as one protocol core: link datagrams in and out, every call of the process in between.

A datagram finds its call by its path, a binding request by the ufrag it names. Nothing is remembered of a path before
its first check has been authenticated by the call's session, so strangers fill no table.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from antiphon_common.control import CallAccepted, CallRequest, CallStatus, IceParameters
from antiphon_common.core import Path
from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_common.link import (
    DOWNLINK,
    HEADER_SIZE,
    MESSAGE,
    PATH_START,
    PATH_STOP,
    Hello,
    LinkKeys,
    Owner,
    decode_message,
)
from antiphon_common.ownership import OwnershipTable
from antiphon_common.routing import RouteToken, RouteTokens
from antiphon_common.stun import peek_username
from antiphon_common.timers import DeadlineQueue
from antiphon_transceiver import events, relays
from antiphon_transceiver.audio import UplinkFrame
from antiphon_transceiver.backends.call import BackendCall, InboundFrame
from antiphon_transceiver.call import Call, Route
from antiphon_transceiver.dtls import Certificate
from antiphon_transceiver.ice import ice_password
from antiphon_transceiver.media import AudioStream
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.relays import Address, Relays
from antiphon_transceiver.rtp import RtpOptions
from antiphon_transceiver.session import Session

LAST_STUN_BYTE = 3
"""First bytes above it are not STUN's (RFC 7983 §7)."""

KEPT_ENDED = 1000
"""Ended calls whose status can still be asked for: a few minutes of calls at the highest rate of one process."""

Random = Callable[[int], bytes]


class LinkDatagram(NamedTuple):
    """One datagram of the link socket: what it holds, and the relay it came from or goes to."""

    data: bytes
    relay: Address


class CallConnected(NamedTuple):
    call: Call
    event: events.Connected


class CallReported(NamedTuple):
    """Something of a call that is worth a line in the log."""

    call: Call
    event: events.MediaStarted | events.MediaMissing | events.MediaEnded | events.Disconnected | events.Reconnected


class CallEnded(NamedTuple):
    """A call is over. `error` is set when it was ended by an exception in its own code."""

    call: Call
    reason: EndReason
    detail: str
    error: Exception | None


Event = CallConnected | CallReported | CallEnded | relays.Event


class SwitchboardCounters:
    """Link datagrams dropped, by reason. `rerouted` counts paths that were given a neighbour of a silent relay,
    `diverted` calls that changed to another ingress because theirs was lost."""

    __slots__ = (
        "bad_tag",
        "diverted",
        "foreign_path",
        "malformed_messages",
        "messages",
        "received",
        "rerouted",
        "sent",
        "skipped_messages",
        "too_short",
        "unknown_path",
        "unknown_ufrag",
    )

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0
        self.messages = 0
        self.malformed_messages = 0
        self.skipped_messages = 0
        self.rerouted = 0
        self.diverted = 0
        self.too_short = 0
        self.bad_tag = 0
        self.unknown_ufrag = 0
        self.unknown_path = 0
        self.foreign_path = 0


class Switchboard:
    """Every call of one process. `unix_offset` added to `now` gives Unix time, `ntp_offset` NTP time, in seconds. NTP
    time stays what it was when somebody sets the wall clock: callers compare one report with another."""

    def __init__(
        self,
        owner: Owner,
        tokens: RouteTokens,
        link_keys: LinkKeys,
        certificate: Certificate,
        random: Random,
        *,
        unix_offset: float,
        ntp_offset: float,
    ) -> None:
        self.counters = SwitchboardCounters()
        self.paths: OwnershipTable[Call] = OwnershipTable()
        self.relays = Relays(owner)
        self._owner = owner
        self._tokens = tokens
        self._link_keys = link_keys
        self._certificate = certificate
        self._random = random
        self._unix_offset = unix_offset
        self._ntp_offset = ntp_offset
        self._calls: dict[str, Call] = {}
        self._by_ufrag: dict[bytes, Call] = {}
        self._ended: dict[str, tuple[str, CallStatus]] = {}
        self._deadlines: DeadlineQueue[Call] = DeadlineQueue()
        self._delivering: Address | None = None
        """The relay of the latest packet of this turn: only the first of a row of packets counts as a sign of life."""
        self._outbox: deque[LinkDatagram] = deque()
        self._events: deque[Event] = deque()

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls.values())

    def set_unix_offset(self, seconds: float) -> None:
        """Follow the wall clock, which was set: by it keys begin and retire."""
        self._unix_offset = seconds

    # Calls

    def place(self, request: CallRequest, backend: BackendCall, now: float) -> CallAccepted:
        """Make a call of an offer whose backend has a slot for it; return what the answer needs.

        Raises `LocalProtocolError` when the call id is taken.
        """
        if request.call_id in self._calls:
            raise LocalProtocolError(f"call {request.call_id} exists")
        local = self._mint(now)
        cname = self._random(12).hex()
        stream = AudioStream(
            request.codec, backend.format, cname, self._random, self._ntp_offset, RtpOptions.of(request)
        )
        session = Session(request, local, self._certificate, stream, self._random, now)
        answer = CallAccepted(local, session.setup, self._certificate.fingerprint(), stream.ssrc, cname, session.sctp)
        call = Call(request, answer, session, backend, now)
        self._calls[call.id] = call
        self._by_ufrag[call.ufrags[0]] = call
        self._deadlines.set(call, session.poll_timeout())
        return answer

    def restart_ice(self, call: Call, remote: IceParameters, now: float) -> CallAccepted:
        """Begin another ICE generation with the same owner (RFC 8445 §9); return the answer with its credentials."""
        local = self._mint(now)
        evicted = call.session.restart_ice(local, remote)
        call.answer = msgspec.structs.replace(call.answer, ice=local)
        call.ufrags.append(local.ufrag.encode("ascii"))
        self._by_ufrag[call.ufrags[-1]] = call
        if evicted is not None:
            ufrag = evicted.ufrag.encode("ascii")
            call.ufrags.remove(ufrag)
            del self._by_ufrag[ufrag]
        return call.answer

    def receive_frame(self, call: Call, frame: InboundFrame, now: float) -> None:
        """Take a frame of a call's backend."""
        try:
            call.receive_frame(frame, now)
        except Exception as error:  # a failure in one call never touches another
            self._fail(call, error, now)
        else:
            self._settle(call, now)

    def announce_end(self, call: Call, code: str, message: str, now: float) -> None:
        """Tell the caller that its call is about to end, and why, if there is a data channel to tell it over."""
        self._run(call, lambda: call.session.announce_end(code, message), now)

    def end(self, call: Call, reason: EndReason, detail: str, now: float) -> None:
        self._run(call, lambda: call.session.close(reason, detail, now), now)

    def find(self, call_id: str, tenant: str) -> Call | None:
        """Return a tenant's running call; another tenant's is as unknown as one that never was."""
        call = self._calls.get(call_id)
        return call if call is not None and call.tenant == tenant else None

    def status(self, call_id: str, tenant: str) -> CallStatus | None:
        """Return the state of a tenant's call, running or recently ended."""
        call = self.find(call_id, tenant)
        if call is not None:
            return call.status()
        owner, status = self._ended.get(call_id, (None, None))
        return status if owner == tenant else None

    def _mint(self, now: float) -> IceParameters:
        """Return new credentials whose ufrag leads relays here."""
        nonce = int.from_bytes(self._random(4), "big")
        token = RouteToken(self._owner.cluster, self._owner.host, self._owner.port, nonce)
        return IceParameters(self._tokens.mint(token, now + self._unix_offset), ice_password(self._random))

    # The five methods, on link datagrams

    def receive_datagram(self, data: bytes, relay: Address, now: float) -> None:
        """Take one datagram of the link socket."""
        self.counters.received += 1
        if len(data) <= HEADER_SIZE:
            self.counters.too_short += 1
        elif data[0] & MESSAGE:
            self._receive_message(data, relay, now)
        elif not self._link_keys.verify(data, now + self._unix_offset):
            self.counters.bad_tag += 1
        else:
            if relay != self._delivering:
                self._delivering = relay
                self.relays.delivered(relay, now)
            payload = data[HEADER_SIZE:]
            ufrag = peek_username(payload) if payload[0] <= LAST_STUN_BYTE else None
            if ufrag is None:
                self._receive_by_path(payload, data[PATH_START:PATH_STOP], relay, now)
            else:
                self._receive_check(payload, ufrag, data[PATH_START:PATH_STOP], relay, now)

    def handle_timeout(self, now: float) -> None:
        self._delivering = None
        self.relays.handle_timeout(now)
        self._follow_relays(now)
        for call in self._deadlines.pop_due(now):
            try:
                call.session.handle_timeout(now)
            except Exception as error:  # a failure in one call never touches another
                self._fail(call, error, now)
            else:
                self._settle(call, now)
        self.paths.expire(now)

    def poll_transmit(self) -> LinkDatagram | None:
        return self._outbox.popleft() if self._outbox else None

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        calls, relays = self._deadlines.next(), self.relays.poll_timeout()
        return calls if relays is None or (calls is not None and calls < relays) else relays

    # Uplink

    def _receive_by_path(self, payload: bytes, key: bytes, relay: Address, now: float) -> None:
        call = self.paths.lookup(key)
        if call is None:
            self.counters.unknown_path += 1
            return
        route = call.routes_by_key[key]
        before = now if route.relay == relay else call.session.agent.last_heard(route.path)
        try:
            call.session.receive_datagram(payload, route.path, now)
        except Exception as error:  # a failure in one call never touches another
            self._fail(call, error, now)
        else:
            if before < now == call.session.agent.last_heard(route.path):
                route.relay = relay  # what is authenticated goes back the way it came; a second packet proves no more
            self._settle(call, now)

    def _receive_check(self, payload: bytes, ufrag: bytes, key: bytes, relay: Address, now: float) -> None:
        call = self._by_ufrag.get(ufrag)
        if call is None:
            self.counters.unknown_ufrag += 1
            return
        if not self.paths.may_answer(key, call, now):
            self.counters.foreign_path += 1
            return
        route = call.routes_by_key.get(key)
        path = Path.decode(key) if route is None else route.path
        self._run(call, lambda: self._check(call, payload, path, key, relay, now), now)

    def _check(self, call: Call, payload: bytes, path: Path, key: bytes, relay: Address, now: float) -> None:
        """Let the session judge a check; only when it passed is anything remembered of the path."""
        session = call.session
        answered = session.agent.counters.answered
        session.receive_datagram(payload, path, now)
        if session.agent.counters.answered == answered or path not in session.paths:
            return
        call.learn(path, key, relay, self._link_keys.header(path, DOWNLINK, now + self._unix_offset))
        self.paths.answered(key, call, now)
        if session.agent.is_validated(path):
            self._confirm(call, path, now)

    # Downlink

    def _run(self, call: Call, action: Callable[[], None], now: float) -> None:
        try:
            action()
        except Exception as error:  # a failure in one call never touches another
            self._fail(call, error, now)
        else:
            self._settle(call, now)

    def _settle(self, call: Call, now: float) -> None:
        """Carry on what a call's session has to say, and note when it wants to be woken."""
        session = call.session
        while (transmit := session.poll_transmit()) is not None:
            route = call.routes.get(transmit.path) if transmit.path is not None else None
            if route is not None:
                self._outbox.append(LinkDatagram(route.header + transmit.data, route.relay))
        while (event := session.poll_event()) is not None:
            self._handle(call, event, now)
        if session.ended is None:
            call.settle()
        self._deadlines.set(call, session.poll_timeout())

    def _handle(self, call: Call, event: events.Event, now: float) -> None:
        match event:
            case UplinkFrame(data, position, origin):
                call.backend.send_audio(data, position, origin)
            case events.EventReceived(received):
                call.receive_event(received)
            case events.PathConfirmed(path):
                self._confirm(call, path, now)
            case events.PathReleased(path):
                self._release(call, path, now)
            case events.Connected():
                self._events.append(CallConnected(call, event))
            case events.Ended(reason, detail):
                call.backend.end(reason)
                self._remove(call, call.status())
                self._events.append(CallEnded(call, reason, detail, None))
            case (
                events.MediaStarted()
                | events.MediaMissing()
                | events.MediaEnded()
                | events.Disconnected()
                | events.Reconnected()
            ):
                self._events.append(CallReported(call, event))

    def _confirm(self, call: Call, path: Path, now: float) -> None:
        route = call.routes.get(path)
        if route is not None and self.paths.confirm(path.encode(), call, now):
            self.relays.confirmed(path, route.relay, now)
            self._tell_relays(now)

    def _release(self, call: Call, path: Path, now: float) -> None:
        route, key = call.routes.get(path), path.encode()
        if self.paths.lookup(key) in (call, None):  # else it is another call's by now
            self.paths.release(key, call)
            self.relays.released(path, None if route is None else route.relay)
            self._tell_relays(now)
        if path not in call.session.paths:
            call.forget(path)

    # Relays

    def take_over(self, origin: Owner, now: float) -> None:
        """Have relays send here what is for calls whose tokens name `origin`. Raises `LocalProtocolError`."""
        self.relays.take_over(origin, now)
        self._tell_relays(now)

    def _receive_message(self, data: bytes, relay: Address, now: float) -> None:
        self.counters.messages += 1
        if self.relays.repeats_hello(data, relay, now):
            return
        if not self._link_keys.verify(data, now + self._unix_offset):
            self.counters.bad_tag += 1
            return
        try:
            message = decode_message(data[HEADER_SIZE:])
        except DecodeError:
            self.counters.malformed_messages += 1
            return
        if isinstance(message, Hello):
            self.relays.receive_hello(message, relay, now, data)
        else:
            self.counters.skipped_messages += 1

    def _tell_relays(self, now: float) -> None:
        """Send on what relays are to know."""
        while (notice := self.relays.poll_transmit()) is not None:
            datagram = self._link_keys.encode(notice.message, now + self._unix_offset)
            self._outbox.extend(LinkDatagram(datagram, relay) for relay in notice.relays)

    def _follow_relays(self, now: float) -> None:
        """Tell relays what is due, and send around those that fell silent."""
        self._tell_relays(now)
        while (event := self.relays.poll_event()) is not None:
            self._events.append(event)
            match event:
                case relays.RelaySilenced(relay):
                    self._reroute([route for route in self._routes() if route.relay == relay])
                case relays.IngressFound(ingress) | relays.AddressMoved(ingress):
                    self._reroute([route for route in self._routes() if route.path.ingress == ingress])
                case relays.IngressLost(ingress):
                    for call in list(self._calls.values()):
                        self._divert(call, ingress, now)

    def _routes(self) -> Iterator[Route]:
        return (route for call in self._calls.values() for route in call.routes.values())

    def _reroute(self, routes: Iterable[Route]) -> None:
        """Give routes by which nothing can leave another relay of the same ingress, where there is one."""
        stand_ins: dict[tuple[Address, int], Address | None] = {}
        for route in routes:
            lost, ingress = route.relay, route.path.ingress
            if self.relays.serves(lost, ingress):
                continue
            if (lost, ingress) not in stand_ins:
                stand_ins[lost, ingress] = self.relays.instead_of(lost, ingress)
            stand_in = stand_ins[lost, ingress]
            if stand_in is not None:
                route.relay = stand_in
                self.counters.rerouted += 1

    def _divert(self, call: Call, ingress: int, now: float) -> None:
        """Have a call send over another ingress than one that is lost, if it can."""
        before = call.session.agent.selected
        self._run(call, lambda: call.session.unreachable(ingress, now), now)
        if call.session.agent.selected != before:
            self.counters.diverted += 1

    # The end of a call

    def _fail(self, call: Call, error: Exception, now: float) -> None:
        """End a call whose own code raised; it is not asked anything more."""
        for path in list(call.routes):
            self._release(call, path, now)
        call.backend.end(EndReason.INTERNAL_ERROR)
        self._remove(call, CallStatus(call.id, "ended", EndReason.INTERNAL_ERROR))
        self._events.append(CallEnded(call, EndReason.INTERNAL_ERROR, repr(error), error))

    def _remove(self, call: Call, status: CallStatus) -> None:
        self._deadlines.set(call, None)
        self.paths.release_all(call)
        for ufrag in call.ufrags:
            del self._by_ufrag[ufrag]
        del self._calls[call.id]
        while len(self._ended) >= KEPT_ENDED:
            del self._ended[next(iter(self._ended))]
        self._ended[call.id] = (call.tenant, status)
