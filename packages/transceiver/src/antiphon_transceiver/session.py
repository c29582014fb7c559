"""One call's transport and audio as a protocol core, between the network and the backend.

network ──▶ receive_datagram ──▶ transport ──▶ stream, channels ──▶ UplinkFrame, EventReceived
network ◀── poll_transmit    ◀── transport ◀── stream, channels ◀── play, clear, send_event, …
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping
from math import inf
from typing import Any, Literal

import msgspec

from antiphon_common.control import CallRequest, IceParameters, SctpParameters
from antiphon_common.core import Path, Transmit
from antiphon_transceiver import dtls, events, ice
from antiphon_transceiver.channels import OURS, CallChannels
from antiphon_transceiver.media import AudioStream
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.peer_transport import PeerTransport, TransportState
from antiphon_transceiver.srtp.profiles import PREFERRED_PROFILES
from antiphon_transceiver.transport_events import (
    Closed,
    Connected,
    RtcpReceived,
    RtpReceived,
    TransportCloseReason,
    TransportEvent,
)

FIRST_MEDIA_TIMEOUT = 10.0
"""Seconds after the handshake at which a caller whose audio never came is reported; it may be muted, so it stays."""

MAX_BYES = 16
"""Ends of the caller's stream that are reported, each a line of the log. A browser sends one BYE for each track; a
caller that sends one after each packet would fill the disk."""

ChannelEvent = events.EventReceived | events.MessageRefused

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

STATES = {
    TransportState.NEW: "new",
    TransportState.CONNECTING: "connecting",
    TransportState.STALLED: "connecting",
    TransportState.CONNECTED: "connected",
    TransportState.DISCONNECTED: "disconnected",
    TransportState.CLOSED: "ended",
}
"""What the control API calls the states of a call."""


class Session:
    """A call from its offer to its end. `local` and `certificate` are what the answer carries of our side.

    Drive it by the five methods. After `Ended` no event follows, but until `poll_timeout` is infinity the close alert
    is retransmitted.
    """

    def __init__(
        self,
        request: CallRequest,
        local: IceParameters,
        certificate: dtls.Certificate,
        stream: AudioStream,
        random: Callable[[int], bytes],
        now: float,
    ) -> None:
        self.stream = stream
        self.role = dtls.DtlsRole.SERVER if request.setup == "active" else dtls.DtlsRole.CLIENT
        self.ended: events.Ended | None = None
        self.events_unheard = 0
        """Events for a caller without data channels."""
        self.agent = ice.ControlledAgent(local, request.ice, random)
        self.channels: CallChannels | None = None
        endpoint = dtls.DtlsEndpoint(self.role, certificate, request.fingerprints, PREFERRED_PROFILES, random)
        if request.sctp is not None:
            self.channels = CallChannels(request.sctp, self.role is dtls.DtlsRole.CLIENT, random)
        self.transport: PeerTransport[ChannelEvent] = PeerTransport(self.agent, endpoint, self.channels, now)
        self.counters = self.transport.counters
        self._events: deque[events.Event] = deque()
        self._started = now
        self._setup_seconds: float | None = None
        self._ending: events.Ended | None = None
        """Why we end the call, where it is not the transport that ends it."""
        self._media_deadline = inf
        self._report_at = inf
        self._byes = 0
        self._caller_sends = request.direction in ("sendrecv", "sendonly")
        self._caller_listens = request.direction in ("sendrecv", "recvonly")
        self._hang_up_when_played = False

    @property
    def setup(self) -> Literal["active", "passive"]:
        """Our `a=setup` value in the answer (RFC 5763 §5)."""
        return "active" if self.role is dtls.DtlsRole.CLIENT else "passive"

    @property
    def sctp(self) -> SctpParameters | None:
        """What the answer says of data channels; None where none were offered."""
        return None if self.channels is None else OURS

    @property
    def was_connected(self) -> bool:
        """Whether the handshake was completed, even if the call has ended since."""
        return self.transport.srtp is not None

    @property
    def state(self) -> str:
        """The state as the control API names it."""
        return STATES[self.transport.state]

    @property
    def paths(self) -> Collection[Path]:
        """The paths with an authenticated check; few, and bounded by the agent."""
        return self.agent.paths

    def statistics(self) -> dict[str, Any]:
        """Return the figures of the call for people and programs; times in milliseconds."""
        selected, setup = self.agent.selected, self._setup_seconds
        dropped = {name: getattr(self.counters, name) for name in self.counters.__slots__}
        return {
            "path": None if selected is None else str(selected),
            "paths": len(self.agent.paths),
            "setup_ms": None if setup is None else round(setup * 1000, 1),
            "checks_answered": self.agent.counters.answered,
            "dropped": {**dropped, "events_unheard": self.events_unheard},
            "channels": None if self.channels is None else self.channels.statistics(),
            **self.stream.statistics(),
        }

    # Input

    def receive_datagram(self, data: bytes, source: Path, now: float) -> None:
        """Take one datagram of the caller, or of whoever sends in its name."""
        self.transport.receive_datagram(data, source, now)
        self._handle_events(now)

    def handle_timeout(self, now: float) -> None:
        """Let the transport and the stream do what is due."""
        self.transport.handle_timeout(now)
        self._handle_events(now)
        if now >= self._media_deadline:
            self._media_deadline = inf
            self._events.append(events.MediaMissing())
        if now >= self._report_at:
            self._report(now)
        self._run_stream(now)

    # Local actions

    def restart_ice(self, local: IceParameters, remote: IceParameters) -> IceParameters | None:
        """Begin another ICE generation (RFC 8445 §9). DTLS, SRTP and audio go on as they are. Returns credentials of
        ours that are no longer answered, if they had to make room."""
        return self.agent.restart(local, remote)

    def unreachable(self, ingress: int, now: float) -> None:
        """Report that nothing sent by way of an ingress arrives: from now on everything goes by the best validated
        path of another one, as `ControlledAgent.unreachable` says."""
        if self.ended is None:
            self.agent.unreachable(ingress, now)
            self.transport.flush(now)
            self._handle_events(now)

    def play(self, response: int, data: bytes) -> None:
        """Queue audio of the backend. Raises `OverrunError` when it ignored its credit, DecodeError for no audio."""
        self.stream.playout.append(response, data)

    def clear(self, response: int) -> int:
        """Drop what is not yet sent of a response and those before it; return the milliseconds that were heard."""
        return self.stream.playout.clear(response)

    def end_response(self, response: int) -> None:
        """The backend has sent all of `response`: what is left of it plays, and then it is done."""
        self.stream.playout.end(response)

    def send_event(self, event: msgspec.Raw | Mapping[str, Any]) -> None:
        """Send an event of the Realtime API, encoded by `json_objects` or not, now or when the caller can take it; it
        is dropped where there are no data channels. Raises `UndeliverableError`."""
        if self.channels is None:
            self.events_unheard += 1
        elif self.ended is None:
            self.channels.send(event)
            self.transport.update_timeout()

    def refuse_event(self, event_id: str | None, message: str) -> None:
        """Report to the caller that an event was not taken; `event_id` is its own, if it had any."""
        if self.channels is not None and self.ended is None:
            self.channels.refuse("event_refused", message, event_id)
            self.transport.update_timeout()

    def announce_end(self, code: str, message: str) -> None:
        """Report to the caller why the call is about to end."""
        if self.channels is not None and self.ended is None:
            self.channels.announce_end(code, message)
            self.transport.update_timeout()

    def hang_up_when_played(self, now: float) -> None:
        """End the call once everything queued has been sent, and events have arrived."""
        self._hang_up_when_played = True
        self._run_stream(now)

    def close(self, reason: EndReason, detail: str, now: float) -> None:
        """End the call: BYE, close_notify, and every path released."""
        if self.ended is not None:
            return
        self._ending = events.Ended(reason, detail)
        if self.transport.srtp is not None:
            self.transport.send_rtcp(self.stream.bye())
        self.transport.close(now)
        self._handle_events(now)

    # Output

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return self.transport.poll_transmit()

    def poll_event(self) -> events.Event | None:
        """Return the next event, or None."""
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float:
        """Return when `handle_timeout` is due; infinity for never."""
        transport = self.transport
        deadline = transport.deadline
        if transport.state is TransportState.CONNECTED:
            deadline = min(deadline, self._media_deadline, self._report_at, self.stream.poll_timeout(sends=True))
        elif transport.state is TransportState.DISCONNECTED:
            deadline = min(deadline, self._media_deadline, self.stream.poll_timeout(sends=False))
        return deadline

    # What the transport reports

    def _handle_events(self, now: float) -> None:
        poll_event = self.transport.poll_event
        received = feedback_due = False
        while (event := poll_event()) is not None:
            if isinstance(event, RtpReceived):
                received = True
                if self._media_deadline != inf:
                    self._start_media(now)
                feedback_due |= self.stream.receive_rtp(event.packet, event.arrived)
            else:
                self._handle(event, now)
        if received:
            while (frame := self.stream.poll_frame(now)) is not None:
                self._events.append(frame)
            if feedback_due:
                self._send_feedback(now)

    def _handle(self, event: TransportEvent | ChannelEvent, now: float) -> None:
        match event:
            case RtcpReceived(packet):
                self._receive_rtcp(packet, now)
            case Connected():
                self._start_stream(event, now)
                self._events.append(event)
            case Closed(reason=reason, detail=detail):
                self.ended = self._ending or events.Ended(END_REASONS[reason], detail)
                self._events.append(self.ended)
            case ice.CheckAccepted() | ice.PathSelected() | RtpReceived():
                pass
            case _:
                self._events.append(event)

    def _start_stream(self, event: Connected, now: float) -> None:
        self._setup_seconds = event.handshake_after
        if self._caller_sends:
            self._media_deadline = now + FIRST_MEDIA_TIMEOUT
        self.stream.start(now)
        self._plan_report()

    def _start_media(self, now: float) -> None:
        self._media_deadline = inf
        self._events.append(events.MediaStarted(now - self._started))

    def _receive_rtcp(self, packet: bytes, now: float) -> None:
        if self.stream.receive_rtcp(packet, now) and self._byes < MAX_BYES:
            self._byes += 1
            self._events.append(events.MediaEnded())
        while (again := self.stream.feedback.poll_resend()) is not None:
            self.transport.send_protected(again)
        self._plan_report()

    # The stream

    def _run_stream(self, now: float) -> None:
        transport = self.transport
        if self.ended is not None or transport.srtp is None:
            return
        while (frame := self.stream.poll_frame(now)) is not None:
            self._events.append(frame)
        if transport.state is not TransportState.CONNECTED:
            return
        while (packet := self.stream.poll_rtp(now)) is not None:
            if self._caller_listens:
                self.stream.feedback.sent(transport.send_rtp(packet), now)
        self._send_feedback(now)
        if self._hang_up_when_played:
            self._hang_up_if_played(now)

    def _send_feedback(self, now: float) -> None:
        if self.transport.state is TransportState.CONNECTED and (due := self.stream.poll_feedback(now)) is not None:
            self.transport.send_rtcp(due)

    def _report(self, now: float) -> None:
        if self.transport.state is TransportState.CONNECTED and (report := self.stream.poll_rtcp(now)) is not None:
            self.transport.send_rtcp(report)
        self._plan_report()

    def _plan_report(self) -> None:
        self._report_at = self.stream.reporter.poll_timeout()

    def _hang_up_if_played(self, now: float) -> None:
        """End the call if all audio was played, and then, if all events arrived."""
        if self.stream.playout.poll_timeout() < inf:
            return
        if self.channels is None or self.channels.finish(now):
            self.close(EndReason.BACKEND_ENDED, "the backend hung up", now)
        else:
            self.transport.flush(now)
            self._handle_events(now)
