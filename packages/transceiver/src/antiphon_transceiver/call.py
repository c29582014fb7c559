"""One call as a protocol core, from its offer to its end, between the caller's network and the backend.

network ──▶ receive_datagram ──▶ transport ──▶ media ──▶ backend          events ──▶ bus ──▶ backend
network ◀── transmits        ◀── transport ◀── media ◀── receive_frame ◀── backend ──▶ bus ──▶ channels
"""

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from functools import wraps
from math import inf
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec, TypeVar

import msgspec

from antiphon_common import frames
from antiphon_common.control import CallAccepted, CallRequest, CallStatus, IceParameters
from antiphon_common.core import Path, Transmit
from antiphon_common.errors import DecodeError
from antiphon_transceiver import dtls, ice
from antiphon_transceiver.audio import OverrunError
from antiphon_transceiver.backends.call import BackendCall, InboundFrame
from antiphon_transceiver.backends.connection import BACKEND_LOST, NO_ANSWER
from antiphon_transceiver.budget import Budget, frame_price
from antiphon_transceiver.call_media import CallMedia
from antiphon_transceiver.channels import OURS, CallChannels
from antiphon_transceiver.event_bus import EventBus, EventSource
from antiphon_transceiver.event_consumers import BackendConsumer, CallerConsumer
from antiphon_transceiver.events import (
    CallEvent,
    ChannelEvent,
    EventReceived,
    Failed,
    MessageRefused,
    Raised,
    Terminated,
)
from antiphon_transceiver.ice_restarts import RestartLimiter
from antiphon_transceiver.media import AudioStream
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.peer_transport import PeerTransport, TransportState
from antiphon_transceiver.relays import Route
from antiphon_transceiver.rtp import RtpOptions
from antiphon_transceiver.srtp.profiles import PREFERRED_PROFILES
from antiphon_transceiver.transport_events import (
    Closed,
    Connected,
    RtcpReceived,
    RtpReceived,
    TransportCloseReason,
    TransportEvent,
)

END_REASONS = {
    TransportCloseReason.LOCAL: EndReason.HANGUP,
    TransportCloseReason.CLOSE_NOTIFY: EndReason.CLOSE_NOTIFY,
    TransportCloseReason.DTLS_ALERT: EndReason.DTLS_ALERT,
    TransportCloseReason.CERTIFICATE_MISMATCH: EndReason.CERTIFICATE_MISMATCH,
    TransportCloseReason.HANDSHAKE_TIMEOUT: EndReason.DTLS_TIMEOUT,
    TransportCloseReason.NO_CHECK: EndReason.NO_STUN,
    TransportCloseReason.BAD_CREDENTIALS: EndReason.BAD_CREDENTIALS,
    TransportCloseReason.NO_ANSWER: EndReason.NO_STUN,
    TransportCloseReason.CONSENT_EXPIRED: EndReason.PEER_SILENT,
    TransportCloseReason.ROLE_CONFLICT: EndReason.NO_STUN,
}
"""Why a call ended, by why its transport closed. A controlled agent reports neither NO_ANSWER nor ROLE_CONFLICT."""

ENDED_BY_LINK = {BACKEND_LOST: EndReason.BACKEND_LOST, NO_ANSWER: EndReason.BACKEND_REFUSED}
"""Ends that the connection to the backend reports itself. Any other reason comes from the backend."""

STATE_NAMES = {
    TransportState.NEW: "new",
    TransportState.CONNECTING: "connecting",
    TransportState.STALLED: "connecting",
    TransportState.CONNECTED: "connected",
    TransportState.DISCONNECTED: "disconnected",
    TransportState.CLOSED: "ended",
}
"""What the control API calls the states of a call."""

MAX_DETAIL = 1000
"""Characters of a backend's reason that the log repeats, as many as the SDK sends."""

BACKEND_OVER_BUDGET = "the backend sent more frames at once than one call may cost"

P = ParamSpec("P")
T = TypeVar("T")


class CallPhase(Enum):
    """The phase of a call. Whether the caller is connected is the state of its transport."""

    OPEN = auto()
    DRAINING = auto()
    """The backend hung up: what it sent before is still played and delivered."""
    ENDED = auto()
    """Only the close alert is retransmitted."""
    FAILED = auto()
    """Its own code raised; it is not entered any more."""


class CallStep(Enum):
    """What moves a call from one phase to another."""

    HANG_UP = auto()
    END = auto()
    RAISE = auto()


TRANSITIONS = {
    (CallPhase.OPEN, CallStep.HANG_UP): CallPhase.DRAINING,
    (CallPhase.OPEN, CallStep.END): CallPhase.ENDED,
    (CallPhase.OPEN, CallStep.RAISE): CallPhase.FAILED,
    (CallPhase.DRAINING, CallStep.HANG_UP): CallPhase.DRAINING,
    (CallPhase.DRAINING, CallStep.END): CallPhase.ENDED,
    (CallPhase.DRAINING, CallStep.RAISE): CallPhase.FAILED,
    (CallPhase.ENDED, CallStep.RAISE): CallPhase.FAILED,
}
"""Every transition there is."""


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
        if call.phase is CallPhase.FAILED:
            return None
        try:
            return method(call, *arguments, **options)
        except Exception as error:  # a failure in one call never touches another
            call._fail(error)
            return None

    return enter


class Call:
    """One call. Enter it by the five methods and the local actions; after each entry take out what `poll_transmit`
    and `poll_event` return, and enter it again at `poll_timeout`.

    Each entry is fenced: an exception ends the call with `INTERNAL_ERROR`, and no other call notices. After
    `Terminated` the close alert is still retransmitted. `local` and `certificate` are our side of the answer;
    `ntp_offset` added to `now` gives NTP time in seconds.
    """

    def __init__(
        self,
        request: CallRequest,
        local: IceParameters,
        certificate: dtls.Certificate,
        backend: BackendCall,
        random: Callable[[int], bytes],
        ntp_offset: float,
        now: float,
    ) -> None:
        self.id = request.call_id
        self.tenant = request.tenant
        self.ufrags = [local.ufrag.encode("ascii")]
        """Ours, of every generation that checks may still name; the newest is the last."""
        self.backend = backend
        self.restarts = RestartLimiter(now)
        self.phase = CallPhase.OPEN
        self.ended: Terminated | None = None
        """How it ended, unless its own code raised."""
        self.last_status: CallStatus | None = None
        """The status in which it ended; None before that."""

        is_client = request.setup != "active"  # RFC 5763 §5
        role = dtls.DtlsRole.CLIENT if is_client else dtls.DtlsRole.SERVER
        self.agent = ice.ControlledAgent(local, request.ice, random)
        endpoint = dtls.DtlsEndpoint(role, certificate, request.fingerprints, PREFERRED_PROFILES, random)
        self.channels = None if request.sctp is None else CallChannels(request.sctp, is_client, random)
        self.transport: PeerTransport[ChannelEvent] = PeerTransport(self.agent, endpoint, self.channels, now)
        self.transmits = self.transport.transmits
        """What `poll_transmit` returns, oldest first."""
        self.events: deque[CallEvent] = deque()
        """What `poll_event` returns, oldest first."""
        cname = random(12).hex()
        self.stream = AudioStream(request.codec, backend.format, cname, random, ntp_offset, RtpOptions.of(request))
        self.budget = Budget()
        self.media = CallMedia(request, self.stream, backend, self.transport, self.events, self.budget, now)

        self.caller = CallerConsumer(self.transport, self.channels)
        self.bus = EventBus(self.budget)
        self.bus.attach(EventSource.CALLER, self.caller)
        self.bus.attach(EventSource.BACKEND, BackendConsumer(backend))

        sctp = None if self.channels is None else OURS
        setup: Literal["active", "passive"] = "active" if is_client else "passive"
        self.answer = CallAccepted(local, setup, certificate.fingerprint(), self.stream.ssrc, cname, sctp)
        """Our side of the answer."""
        self.routes: dict[Path, Route] = {}
        """The way to each path with an authenticated check, bounded by the agent's paths."""
        self.routes_by_key: dict[bytes, Route] = {}
        """The same by the path's key in the link header."""
        self.deadline = self.transport.deadline
        """What `poll_timeout` returns."""
        self._setup_seconds: float | None = None
        self._ending: Terminated | None = None
        """Why we end the call, where it is not the transport that ends it."""

    @property
    def state(self) -> str:
        """The state as the control API names it."""
        return "ended" if self.phase is CallPhase.FAILED else STATE_NAMES[self.transport.state]

    @property
    def connected(self) -> bool:
        """Whether the handshake was completed, even if the call has ended since."""
        return self.media.started

    @property
    def disconnected(self) -> bool:
        """Whether the caller is silent: its paths are released, and any other call may take them."""
        return self.transport.state is TransportState.DISCONNECTED or self.transport.state is TransportState.STALLED

    @property
    def authenticated(self) -> bool:
        """Whether the datagram received last proved to come from the caller."""
        return self.phase is not CallPhase.FAILED and self.transport.authenticated

    # Input

    @fenced
    def receive_datagram(self, data: bytes, source: Path, now: float) -> None:
        """Take one datagram of the caller, or of an attacker that spoofs its address."""
        self.transport.receive_datagram(data, source, now)
        self._handle_transport_events(now)
        self.deadline = min(self.transport.deadline, self.media.poll_timeout())

    @fenced
    def receive_frame(self, frame: InboundFrame, now: float) -> None:
        """Carry out one frame of the backend. A frame that is not allowed ends the call, and so do too many."""
        if self.phase is CallPhase.ENDED:
            return
        if not self.budget.charge(frame_price(frame), now):
            self._end(EndReason.OVER_BUDGET, BACKEND_OVER_BUDGET, now)
        else:
            try:
                self._receive_frame(frame, now)
            except (OverrunError, DecodeError) as error:
                self._end(EndReason.BACKEND_ERROR, str(error), now)
        self.deadline = min(self.transport.deadline, self.media.poll_timeout())

    @fenced
    def handle_timeout(self, now: float) -> None:
        """Do what is due by `now`."""
        if now >= self.transport.deadline:
            self.transport.handle_timeout(now)
            self._handle_transport_events(now)
        self._run_media(now)
        self.deadline = min(self.transport.deadline, self.media.poll_timeout())

    # Output

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return self.transmits.popleft() if self.transmits else None

    def poll_event(self) -> CallEvent | None:
        """Return the next event, or None."""
        return self.events.popleft() if self.events else None

    def poll_timeout(self) -> float:
        """Return when `handle_timeout` is due, in seconds; infinity for never."""
        return self.deadline

    # Local actions

    @fenced
    def restart_ice(self, local: IceParameters, remote: IceParameters, now: float) -> Restart:
        """Begin another ICE generation (RFC 8445 §9) with the credentials `local`; return the new answer. DTLS, SRTP
        and audio go on as they are."""
        evicted = self.agent.restart(local, remote)
        self.answer = msgspec.structs.replace(self.answer, ice=local)
        self.deadline = min(self.transport.deadline, self.media.poll_timeout())
        return Restart(self.answer, evicted)

    @fenced
    def switch_ingress(self, lost: int, now: float) -> bool:
        """Send over another ingress than one that is lost; return whether there is one."""
        if self.phase is CallPhase.ENDED:
            return False
        before = self.agent.selected
        self.agent.unreachable(lost, now)
        switched = self.agent.selected != before
        self.transport.flush(now)
        self._handle_transport_events(now)
        self.deadline = min(self.transport.deadline, self.media.poll_timeout())
        return switched

    @fenced
    def announce_end(self, code: str, message: str, now: float) -> None:
        """Send the caller the reason why its call is about to end, if it has a data channel."""
        if self.phase is not CallPhase.ENDED:
            self.caller.announce_end(code, message)
            self.deadline = min(self.transport.deadline, self.media.poll_timeout())

    @fenced
    def end(self, reason: EndReason, detail: str, now: float) -> None:
        """End the call with BYE and close_notify, and release every path; harmless when it has ended."""
        self._end(reason, detail, now)
        self.deadline = min(self.transport.deadline, self.media.poll_timeout())

    @fenced
    def inspect(self, look: "Callable[[Call, float], None]", now: float) -> None:
        """Show the call to a function that only reads."""
        look(self, now)

    @fenced
    def status(self) -> CallStatus:
        """Return what the control API reports about this call."""
        return self._status()

    def add_route(self, route: Route, key: bytes) -> None:
        """Send to a path by this route from now on."""
        self.routes[route.path] = self.routes_by_key[key] = route

    def remove_route(self, route: Route) -> None:
        """Send nothing to the path of a route any more."""
        self.routes.pop(route.path, None)
        self.routes_by_key.pop(route.path.encode(), None)

    # What the transport reports

    def _handle_transport_events(self, now: float) -> None:
        reported, received = self.transport.events, False
        while reported:
            event = reported.popleft()
            if isinstance(event, RtpReceived):
                self.media.receive_rtp(event.packet, event.arrived, now)
                received = True
            else:
                self._handle(event, now)
        if received:
            self.media.send_uplink(now)

    def _handle(self, event: TransportEvent | ChannelEvent, now: float) -> None:
        match event:
            case RtcpReceived(packet):
                self.media.receive_rtcp(packet, now)
            case EventReceived(received):
                self.bus.publish(EventSource.CALLER, received, now)
            case MessageRefused():
                self.bus.refuse(now)
            case Connected():
                self._setup_seconds = event.handshake_after
                self.media.start(now)
                self.events.append(event)
            case ice.Reconnected():
                selected = self.agent.selected
                if selected is not None and self.agent.is_validated(selected):  # checks confirm the other paths
                    self.events.append(ice.PathValidated(selected))
                self.events.append(event)
            case Closed(reason=reason, detail=detail):
                self._transport_closed(self._ending or Terminated(END_REASONS[reason], detail))
            case ice.PathValidated() | ice.PathReleased() | ice.Disconnected():
                self.events.append(event)

    def _transport_closed(self, ended: Terminated) -> None:
        self._advance(CallStep.END)
        self.ended = ended
        self.backend.end(ended.reason)
        self.last_status = self._status()
        self.events.append(ended)

    # Media

    def _run_media(self, now: float) -> None:
        media = self.media
        if self.phase is CallPhase.ENDED or not media.started:
            return
        if now >= media.uplink_at:
            media.send_uplink(now)
        media.handle_timeout(now)
        self._return_credit()
        if self.phase is CallPhase.DRAINING and media.played and self.transport.state is TransportState.CONNECTED:
            self._finish(now)

    def _return_credit(self) -> None:
        """Return credit to the backend for audio that was played or dropped."""
        drained = self.stream.playout.take_drained()
        if drained:
            self.backend.grant(drained)

    def _finish(self, now: float) -> None:
        """End a call that the backend hung up, once all events arrived too."""
        if self.channels is None or self.channels.finish(now):
            self._end(EndReason.BACKEND_ENDED, "the backend hung up", now)
        else:
            self.transport.flush(now)
            self._handle_transport_events(now)

    # From the backend

    def _receive_frame(self, frame: InboundFrame, now: float) -> None:
        match frame:
            case frames.Audio():
                self.media.play(frame.response, frame.data)
            case frames.ResponseEnded():
                self.media.end_response(frame.response)
            case frames.Clear():
                self.backend.interrupted(frame.response, self.media.clear(frame.response))
                self._return_credit()
            case frames.ServerEvent():
                self.bus.publish(EventSource.BACKEND, frame.event, now)
            case frames.HangUp():
                self._advance(CallStep.HANG_UP)
                self._run_media(now)
            case frames.Refused():
                self._end(EndReason.BACKEND_REFUSED, f"{frame.code}: {frame.message}"[:MAX_DETAIL], now)
            case frames.Ended():
                reason = ENDED_BY_LINK.get(frame.reason, EndReason.BACKEND_ENDED)
                self._end(reason, frame.reason[:MAX_DETAIL], now)
            case frames.BadFrame():
                self._end(EndReason.BACKEND_ERROR, f"a frame that is not allowed: {frame.detail}", now)

    # The end, time and status

    def _end(self, reason: EndReason, detail: str, now: float) -> None:
        if self.phase is CallPhase.ENDED:
            return
        self._ending = Terminated(reason, detail)
        if self.media.started:
            self.media.send_bye()
        self.transport.close(now)
        self._handle_transport_events(now)

    def _fail(self, error: Exception) -> None:
        """End the call because its own code raised. No part of it is asked here, and its backend's half last."""
        self._advance(CallStep.RAISE)
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

    def _advance(self, step: CallStep) -> None:
        self.phase = TRANSITIONS[self.phase, step]

    def _status(self) -> CallStatus:
        reason = None if self.ended is None else self.ended.reason
        counters, selected = self.transport.counters, self.agent.selected
        route = None if selected is None else self.routes.get(selected)
        statistics: dict[str, Any] = {
            "relay": None if route is None else str(Path.of(*route.relay)),
            "throttled": self.budget.refused,
            "path": None if selected is None else str(selected),
            "paths": len(self.agent.paths),
            "setup_ms": None if self._setup_seconds is None else round(self._setup_seconds * 1000, 1),
            "checks_answered": self.agent.counters.answered,
            "dropped": {name: getattr(counters, name) for name in counters.__slots__}
            | {"events_unheard": self.caller.undelivered},
            "channels": None if self.channels is None else self.channels.statistics(),
            **self.stream.statistics(),
        }
        return CallStatus(self.id, self.state, reason, statistics)
