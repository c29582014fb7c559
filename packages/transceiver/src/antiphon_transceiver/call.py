"""One call as a protocol core: its session with the caller, its half of the backend's connection, its event bus."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from math import inf
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import msgspec

from antiphon_common import frames
from antiphon_common.control import CallAccepted, CallRequest, CallStatus, IceParameters
from antiphon_common.core import Path, Transmit
from antiphon_common.errors import DecodeError
from antiphon_transceiver import events, ice
from antiphon_transceiver.audio import OverrunError, UplinkFrame
from antiphon_transceiver.backends.call import BackendCall, EventRefused, InboundFrame
from antiphon_transceiver.backends.link import BACKEND_LOST, NO_ANSWER
from antiphon_transceiver.budget import Budget, frame_price
from antiphon_transceiver.channels import UndeliverableError, error_event
from antiphon_transceiver.event_bus import DeliveryError, EventBus, EventSource
from antiphon_transceiver.ice_restarts import RestartLimiter
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.relays import Route
from antiphon_transceiver.session import Session
from antiphon_transceiver.transport_events import Connected

ENDED_BY_LINK = {BACKEND_LOST: EndReason.BACKEND_LOST, NO_ANSWER: EndReason.BACKEND_REFUSED}
"""Ends that the connection to the backend reports itself. Any other reason comes from the backend."""

MAX_DETAIL = 1000
"""Characters of a backend's reason that the log repeats, as many as the SDK sends."""

BACKEND_OVER_BUDGET = "the backend sent more frames at once than one call may cost"

P = ParamSpec("P")
T = TypeVar("T")


class Raised(NamedTuple):
    """The code of a call raised an exception after the call had ended."""

    error: Exception


class Failed(NamedTuple):
    """The code of a call raised an exception, which ended the call."""

    error: Exception


CallEvent = events.Event | Raised | Failed


class Restart(NamedTuple):
    """A new ICE generation: the answer with its credentials, and those that are not answered any more, if any."""

    answer: CallAccepted
    evicted: IceParameters | None


def fenced(method: "Callable[Concatenate[Call, P], T]") -> "Callable[Concatenate[Call, P], T | None]":
    """Make an entry into a call: an exception ends this call alone, and the entry returns None.

    A failed call is not entered again.
    """

    @wraps(method)
    def enter(call: "Call", /, *arguments: P.args, **options: P.kwargs) -> T | None:
        if call.failed:
            return None
        try:
            return method(call, *arguments, **options)
        except Exception as error:  # a failure in one call never touches another
            call._fail(error)
            return None

    return enter


class Call:
    """One call. Enter it by the five methods and the local actions, then take out `transmits` and `events`, and enter
    it again at `deadline`.

    Each entry is fenced: an exception ends the call with `INTERNAL_ERROR`, and no other call notices.
    """

    def __init__(
        self, request: CallRequest, answer: CallAccepted, session: Session, backend: BackendCall, now: float
    ) -> None:
        self.id = request.call_id
        self.tenant = request.tenant
        self.ufrags = [answer.ice.ufrag.encode("ascii")]
        """Ours, of every generation that checks may still name; the newest is the last."""
        self.answer = answer
        self.session = session
        self.backend = backend
        self.restarts = RestartLimiter(now)
        self.budget = Budget()
        self.bus = EventBus(self.budget)
        self.bus.attach(EventSource.CALLER, CallerConsumer(session))
        self.bus.attach(EventSource.BACKEND, BackendConsumer(backend))
        self.connected = False
        """Whether the handshake finished."""
        self.disconnected = False
        """Whether its peer is silent: its paths are released, and any other call may take them."""
        self.failed = False
        """Whether its own code raised, after which it is not entered any more."""
        self.last_status: CallStatus | None = None
        """The state in which it ended; None before that."""
        self.routes: dict[Path, Route] = {}
        """Bounded by the session's paths: a route is kept only for a path with an authenticated check."""
        self.routes_by_key: dict[bytes, Route] = {}
        """The same by the path's key in the link header."""
        self.transmits: deque[Transmit] = deque()
        """Datagrams to send. Take each out."""
        self.events: deque[CallEvent] = deque()
        """What happened, for the router. Take each out."""
        self.deadline = session.transport.deadline
        """When `handle_timeout` is due, in seconds; infinity for never."""

    @property
    def selected(self) -> Path | None:
        """Where it sends."""
        return self.session.agent.selected

    @property
    def authenticated(self) -> bool:
        """Whether the datagram received last proved to come from the caller."""
        return not self.failed and self.session.transport.authenticated

    def has_path(self, path: Path) -> bool:
        """Whether an authenticated check came by a path, which is still held."""
        return path in self.session.paths

    def is_validated(self, path: Path) -> bool:
        """Whether the caller is reachable by a path (RFC 8445 §7)."""
        return self.session.agent.is_validated(path)

    def add_route(self, route: Route, key: bytes) -> None:
        """Send to a path by this route from now on."""
        self.routes[route.path] = self.routes_by_key[key] = route

    def remove_route(self, route: Route) -> None:
        """Send nothing to the path of a route any more."""
        self.routes.pop(route.path, None)
        self.routes_by_key.pop(route.path.encode(), None)

    # Entries

    @fenced
    def receive_datagram(self, data: bytes, source: Path, now: float) -> None:
        """Take one datagram of the caller."""
        self.session.receive_datagram(data, source, now)
        self._drain(now)

    @fenced
    def receive_frame(self, frame: InboundFrame, now: float) -> None:
        """Carry out one frame of the backend. A frame that is not allowed ends the call, and so do too many."""
        if not self.budget.charge(frame_price(frame), now):
            self.session.close(EndReason.OVER_BUDGET, BACKEND_OVER_BUDGET, now)
        else:
            try:
                self._receive_frame(frame, now)
            except (OverrunError, DecodeError) as error:
                self.session.close(EndReason.BACKEND_ERROR, str(error), now)
        self._return_credit()
        self._drain(now)

    @fenced
    def handle_timeout(self, now: float) -> None:
        """Do what is due by `now`."""
        self.session.handle_timeout(now)
        self._return_credit()
        self._drain(now)

    @fenced
    def restart_ice(self, local: IceParameters, remote: IceParameters, now: float) -> Restart:
        """Begin another ICE generation (RFC 8445 §9) with the credentials `local`; return the new answer."""
        evicted = self.session.restart_ice(local, remote)
        self.answer = msgspec.structs.replace(self.answer, ice=local)
        self._drain(now)
        return Restart(self.answer, evicted)

    @fenced
    def switch_ingress(self, lost: int, now: float) -> bool:
        """Send over another ingress than one that is lost; return whether there is one."""
        before = self.session.agent.selected
        self.session.unreachable(lost, now)
        switched = self.session.agent.selected != before
        self._drain(now)
        return switched

    @fenced
    def announce_end(self, code: str, message: str, now: float) -> None:
        """Send the caller the reason why its call is about to end, if it has a data channel."""
        self.session.announce_end(code, message)
        self._drain(now)

    @fenced
    def end(self, reason: EndReason, detail: str, now: float) -> None:
        """End the call; harmless when it has ended."""
        self.session.close(reason, detail, now)
        self._drain(now)

    @fenced
    def inspect(self, look: Callable[[Session, float], None], now: float) -> None:
        """Show the session to a function that only reads."""
        look(self.session, now)

    @fenced
    def status(self) -> CallStatus:
        """Return what the control API reports about this call."""
        return self._status()

    def _status(self) -> CallStatus:
        session = self.session
        reason = None if session.ended is None else session.ended.reason
        statistics = {"relay": self._relay(), "throttled": self.budget.refused, **session.statistics()}
        return CallStatus(self.id, session.state, reason, statistics)

    def _relay(self) -> str | None:
        """Return the link address of the relay by which the caller is reached now."""
        selected = self.session.agent.selected
        route = None if selected is None else self.routes.get(selected)
        return None if route is None else str(Path.of(*route.relay))

    # From the backend

    def _receive_frame(self, frame: InboundFrame, now: float) -> None:
        session = self.session
        match frame:
            case frames.Audio():
                session.play(frame.response, frame.data)
            case frames.ResponseEnded():
                session.end_response(frame.response)
            case frames.Clear():
                self.backend.interrupted(frame.response, session.clear(frame.response))
            case frames.ServerEvent():
                self.bus.publish(EventSource.BACKEND, frame.event, now)
            case frames.HangUp():
                session.hang_up_when_played(now)
            case frames.Refused():
                session.close(EndReason.BACKEND_REFUSED, f"{frame.code}: {frame.message}"[:MAX_DETAIL], now)
            case frames.Ended():
                reason = ENDED_BY_LINK.get(frame.reason, EndReason.BACKEND_ENDED)
                session.close(reason, frame.reason[:MAX_DETAIL], now)
            case frames.BadFrame():
                session.close(EndReason.BACKEND_ERROR, f"a frame that is not allowed: {frame.detail}", now)

    # From the session

    def _drain(self, now: float) -> None:
        """Carry out what the session reports, collect what it sends, and note when it wants to be called."""
        session = self.session
        while (transmit := session.poll_transmit()) is not None:
            self.transmits.append(transmit)
        while (event := session.poll_event()) is not None:
            self._handle(event, now)
        self.deadline = session.poll_timeout()

    def _handle(self, event: events.Event, now: float) -> None:
        match event:
            case UplinkFrame(data, position, origin):
                self.backend.send_audio(data, position, origin)
                return
            case events.EventReceived(received):
                self.bus.publish(EventSource.CALLER, received, now)
                return
            case events.MessageRefused():
                self.bus.refuse(now)
                return
            case Connected():
                self.connected = True
            case ice.Disconnected():
                self.disconnected = True
            case ice.Reconnected():
                self.disconnected = False
                self._confirm_selected()
            case events.Ended(reason):
                self.backend.end(reason)
                self.last_status = self._status()
        self.events.append(event)

    def _confirm_selected(self) -> None:
        """Confirm the path by which a silent peer came back; checks confirm the others."""
        selected = self.session.agent.selected
        if selected is not None and self.session.agent.is_validated(selected):
            self.events.append(ice.PathValidated(selected))

    def _return_credit(self) -> None:
        """Return credit to the backend for audio that was played or dropped."""
        drained = self.session.stream.playout.take_drained()
        if drained and self.session.ended is None:
            self.backend.grant(drained)

    def _fail(self, error: Exception) -> None:
        """End the call because its own code raised. No part of it is asked here, and its backend's half last."""
        self.failed = True
        self.deadline = inf
        self.transmits.clear()
        self.events.clear()
        if self.last_status is None:
            self.last_status = CallStatus(self.id, "ended", EndReason.INTERNAL_ERROR)
            self.events.append(Failed(error))
        else:
            self.events.append(Raised(error))
        try:
            self.backend.end(EndReason.INTERNAL_ERROR)
        except Exception as another:
            self.events.append(Raised(another))


class CallerConsumer:
    """The caller on the event bus: events leave over its data channel."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def deliver(self, source: EventSource, event: msgspec.Raw) -> None:
        """Send an event, or queue it until the channel is open. Raises DeliveryError when too much waits."""
        try:
            self._session.send_event(event)
        except UndeliverableError as error:
            raise DeliveryError("event_undeliverable", str(error)) from None

    def report_error(self, error: DeliveryError, event_id: str | None) -> None:
        """Send the caller an error event."""
        self._session.refuse_event(event_id, str(error))


class BackendConsumer:
    """The backend on the event bus: events leave over its connection."""

    def __init__(self, backend: BackendCall) -> None:
        self._backend = backend

    def deliver(self, source: EventSource, event: msgspec.Raw) -> None:
        """Queue an event. Raises DeliveryError when it is too long, or too much waits."""
        try:
            self._backend.send_event(event)
        except EventRefused as error:
            raise DeliveryError("event_refused", str(error)) from None

    def report_error(self, error: DeliveryError, event_id: str | None) -> None:
        """Send the backend an error event, if it has room for that."""
        with suppress(EventRefused):
            self._backend.send_event(error_event(error.code, str(error), event_id))
