"""The transceiver as one protocol core: link datagrams in and out, every call of the process in between.

A datagram finds its call by its path, a binding request by the ufrag it names. Nothing is remembered of a path before
its first check has been authenticated by the call's session, so strangers fill no table.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from antiphon_common.control import CallAccepted, CallRequest, CallStatus, IceParameters
from antiphon_common.core import Path
from antiphon_common.errors import LocalProtocolError
from antiphon_common.link import (
    DOWNLINK,
    HEADER_SIZE,
    MESSAGE,
    PATH_START,
    PATH_STOP,
    Confirm,
    LinkKeys,
    Owner,
    Release,
)
from antiphon_common.ownership import OwnershipTable
from antiphon_common.routing import RouteToken, RouteTokens
from antiphon_common.stun import peek_username
from antiphon_common.timers import DeadlineQueue
from antiphon_transceiver import events
from antiphon_transceiver.audio import UplinkFrame
from antiphon_transceiver.backends import BackendCall, InboundFrame
from antiphon_transceiver.call import Address, Call, Route
from antiphon_transceiver.dtls import Certificate
from antiphon_transceiver.ice import ice_password
from antiphon_transceiver.media import AudioStream
from antiphon_transceiver.outcome import EndReason
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


Event = CallConnected | CallReported | CallEnded


class SwitchboardCounters:
    """Link datagrams dropped, by reason."""

    __slots__ = (
        "bad_tag",
        "foreign_path",
        "messages",
        "received",
        "sent",
        "too_short",
        "unknown_path",
        "unknown_ufrag",
    )

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0
        self.messages = 0
        self.too_short = 0
        self.bad_tag = 0
        self.unknown_ufrag = 0
        self.unknown_path = 0
        self.foreign_path = 0


class Switchboard:
    """Every call of one process. `unix_offset` added to `now` gives Unix time, `ntp_offset` NTP time, in seconds."""

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
        self._outbox: deque[LinkDatagram] = deque()
        self._events: deque[Event] = deque()

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls.values())

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
            self.counters.messages += 1
        elif not self._link_keys.verify(data, now + self._unix_offset):
            self.counters.bad_tag += 1
        else:
            payload = data[HEADER_SIZE:]
            ufrag = peek_username(payload) if payload[0] <= LAST_STUN_BYTE else None
            if ufrag is None:
                self._receive_by_path(payload, data[PATH_START:PATH_STOP], now)
            else:
                self._receive_check(payload, ufrag, data[PATH_START:PATH_STOP], relay, now)

    def handle_timeout(self, now: float) -> None:
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
        return self._deadlines.next()

    # Uplink

    def _receive_by_path(self, payload: bytes, key: bytes, now: float) -> None:
        call = self.paths.lookup(key)
        if call is None:
            self.counters.unknown_path += 1
            return
        try:
            call.session.receive_datagram(payload, call.paths[key], now)
        except Exception as error:  # a failure in one call never touches another
            self._fail(call, error, now)
        else:
            self._settle(call, now)

    def _receive_check(self, payload: bytes, ufrag: bytes, key: bytes, relay: Address, now: float) -> None:
        call = self._by_ufrag.get(ufrag)
        if call is None:
            self.counters.unknown_ufrag += 1
            return
        if not self.paths.may_answer(key, call, now):
            self.counters.foreign_path += 1
            return
        path = call.paths.get(key) or Path.decode(key)
        self._run(call, lambda: self._check(call, payload, path, key, relay, now), now)

    def _check(self, call: Call, payload: bytes, path: Path, key: bytes, relay: Address, now: float) -> None:
        """Let the session judge a check; only when it passed is anything remembered of the path."""
        session = call.session
        answered = session.agent.counters.answered
        session.receive_datagram(payload, path, now)
        if session.agent.counters.answered == answered or path not in session.paths:
            return
        call.learn(path, key, Route(relay, self._link_keys.header(path, DOWNLINK, now + self._unix_offset)))
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
        if route is not None:
            self.paths.confirm(path.encode(), call, now)
            self._send_message(Confirm(path), route.relay, now)

    def _release(self, call: Call, path: Path, now: float) -> None:
        self.paths.release(path.encode(), call)
        route = call.routes.get(path)
        if route is not None:
            self._send_message(Release(path), route.relay, now)
        if path not in call.session.paths:
            call.forget(path)

    def _send_message(self, message: Confirm | Release, relay: Address, now: float) -> None:
        self._outbox.append(LinkDatagram(self._link_keys.encode(message, now + self._unix_offset), relay))

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
