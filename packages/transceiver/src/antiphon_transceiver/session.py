"""One call's transport, audio and events as a protocol core: ICE, DTLS, SRTP, the audio stream and the data channels,
driven together.

network ──▶ receive_datagram ──▶ STUN: ice   DTLS: dtls, channels   SRTP: stream ──▶ UplinkFrame, EventReceived
network ◀── poll_transmit    ◀── ice, dtls around channels, and what the stream plays ◀── play, clear, send_event, …
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping
from math import inf
from typing import Any, Literal

import msgspec

from antiphon_common.control import CallRequest, IceParameters, SctpParameters
from antiphon_common.core import Path, Transmit
from antiphon_common.demux import Protocol, classify
from antiphon_common.errors import DecodeError
from antiphon_transceiver import dtls, events, ice
from antiphon_transceiver.channels import OURS, CallChannels
from antiphon_transceiver.media import AudioStream
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.srtp import EXPORTER_LABEL, SrtpProfile, SrtpSession, keying_material_length
from antiphon_transceiver.srtp.profiles import PREFERRED_PROFILES

SETUP_TIMEOUT = 30.0
"""Seconds a call may take from offer to a finished handshake: a phone on a bad network, and a person who waits."""

FIRST_STUN_TIMEOUT = 15.0
"""Seconds without a valid check after which a call is given up: clients begin to check once they have the answer."""

FIRST_MEDIA_TIMEOUT = 10.0
"""Seconds after the handshake at which a caller whose audio never came is reported; it may be muted, so it stays."""

MAX_EARLY_PACKETS = 75
"""SRTP packets held while the peer already has keys and we do not: 1.5 s of 20 ms each. A peer whose last flight got
lost has sent it again by then, even one that waits for a second as RFC 6347 §4.2.4.1 recommends. The newest stay."""


MAX_GOODBYES = 16
"""Ends of the caller's stream that are reported, each a line of the log. A browser says goodbye once for each track; a
caller that says it after each packet would fill the disk."""


class SessionCounters:
    """What a session dropped, by reason: datagrams, and events for a caller without data channels."""

    __slots__ = ("events_unheard", "over_budget", "srtp_early", "srtp_failed", "unknown_protocol")

    def __init__(self) -> None:
        self.unknown_protocol = 0
        self.srtp_early = 0
        self.srtp_failed = 0
        self.over_budget = 0
        self.events_unheard = 0


class Session:
    """A call from its offer to its end. `local` and `certificate` are what the answer carries of our side.

    After `Ended` it has nothing to tell, but until `poll_timeout` is None it still has something to send.
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
        self.counters = SessionCounters()
        self.role = dtls.DtlsRole.SERVER if request.setup == "active" else dtls.DtlsRole.CLIENT
        self.ended: events.Ended | None = None
        self.agent = ice.ControlledAgent(local, request.ice, random)
        self._dtls = dtls.DtlsEndpoint(self.role, certificate, request.fingerprints, PREFERRED_PROFILES, random)
        self.channels: CallChannels | None = None
        if request.sctp is not None:
            self.channels = CallChannels(request.sctp, self.role is dtls.DtlsRole.CLIENT, random)
        self._srtp: SrtpSession | None = None
        self._early: deque[tuple[bytes, float]] = deque(maxlen=MAX_EARLY_PACKETS)
        """SRTP that came before its keys, and when."""
        self._events: deque[events.Event] = deque()
        self._datagrams: deque[Transmit] = deque()
        self._handshake_path: Path | None = None
        self._handshake_sent_to: set[Path] = set()
        """Where our side of the handshake went; the second path is the last one that is noted."""
        self._started = now
        self._first_check: float | None = None
        self._connected_at: float | None = None
        self._media_deadline: float | None = None
        self._goodbyes = 0
        self._caller_sends = request.direction in ("sendrecv", "sendonly")
        self._caller_listens = request.direction in ("sendrecv", "recvonly")
        self._silenced = False
        self._hang_up_when_played = False
        self._housekeeping = now + FIRST_STUN_TIMEOUT

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
        """Whether the handshake finished, be the call over or not."""
        return self._srtp is not None

    @property
    def state(self) -> str:
        """One word for people: new, connecting, connected, disconnected or ended."""
        if self.ended is not None:
            return "ended"
        if self._srtp is not None:
            return "disconnected" if self._silenced else "connected"
        return "new" if self._first_check is None else "connecting"

    @property
    def paths(self) -> Collection[Path]:
        """The paths with an authenticated check; few, and bounded by the agent."""
        return self.agent.paths

    def statistics(self) -> dict[str, Any]:
        """Return the figures of the call for people and programs; times in milliseconds."""
        selected = self.agent.selected
        return {
            "path": None if selected is None else str(selected),
            "paths": len(self.agent.paths),
            "setup_ms": _milliseconds(None if self._connected_at is None else self._connected_at - self._started),
            "checks_answered": self.agent.counters.answered,
            "dropped": {name: getattr(self.counters, name) for name in SessionCounters.__slots__},
            "channels": None if self.channels is None else self.channels.statistics(),
            **self.stream.statistics(),
        }

    # Input

    def receive_datagram(self, data: bytes, source: Path, now: float) -> None:
        if self.ended is not None:
            return
        protocol = classify(data)
        if protocol == Protocol.RTP:
            self._receive_srtp(data, source, now)
        elif protocol == Protocol.STUN:
            self._receive_stun(data, source, now)
        elif protocol == Protocol.DTLS:
            self._receive_dtls(data, source, now)
        elif protocol == Protocol.RTCP:
            self._receive_srtcp(data, source, now)
        else:
            self.counters.unknown_protocol += 1

    def handle_timeout(self, now: float) -> None:
        if self.ended is not None:
            self._repeat_last_words(now)
            return
        if now >= self._housekeeping:
            self.agent.handle_timeout(now)
            self._dtls.handle_timeout(now)
            if self.channels is not None:
                self.channels.handle_timeout(now)
                self._take_channel_events(self.channels)
            self._check_deadlines(now)
            self._drain(now)
        self._run_stream(now)

    # Local actions

    def restart_ice(self, local: IceParameters, remote: IceParameters) -> IceParameters | None:
        """Begin another ICE generation (RFC 8445 §9). DTLS, SRTP and audio go on as they are. Returns credentials of
        ours that are no longer answered, if they had to make room."""
        evicted = self.agent.add_local(local)
        self.agent.set_remote(remote)
        return evicted

    def unreachable(self, ingress: int, now: float) -> None:
        """Tell that nothing sent by way of an ingress arrives: from now on everything goes by the best validated path
        of another one, as `ControlledAgent.unreachable` says."""
        if self.ended is None:
            self.agent.unreachable(ingress, now)
            self._drain(now)

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
            self.counters.events_unheard += 1
        elif self.ended is None:
            self.channels.send(event)
            self._plan_housekeeping()

    def refuse_event(self, event_id: str | None, message: str) -> None:
        """Tell the caller that an event was not taken; `event_id` is its own, if it had any."""
        if self.channels is not None and self.ended is None:
            self.channels.refuse("event_refused", message, event_id)
            self._plan_housekeeping()

    def announce_end(self, code: str, message: str) -> None:
        """Tell the caller why the call is about to end."""
        if self.channels is not None and self.ended is None:
            self.channels.announce_end(code, message)
            self._plan_housekeeping()

    def hang_up_when_played(self, now: float) -> None:
        """End the call once everything queued has been sent, and events have arrived."""
        self._hang_up_when_played = True
        self._run_stream(now)

    def close(self, reason: EndReason, detail: str, now: float) -> None:
        """End the call: BYE, close_notify, and every path released."""
        if self.ended is not None:
            return
        if self._srtp is not None:
            self._transmit(self._srtp.protect_rtcp(self.stream.goodbye()))
        if self.channels is not None:
            self.channels.abort(now)
            self._send_channels()
        self._dtls.close(now)
        self._flush_machines()
        self._end(reason, detail)

    # Output

    def poll_transmit(self) -> Transmit | None:
        return self._datagrams.popleft() if self._datagrams else None

    def poll_event(self) -> events.Event | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        if self.ended is not None:
            return self._dtls.poll_timeout() if self._dtls.closed else None
        deadline = self._housekeeping
        if self._srtp is not None:
            deadline = min(deadline, self.stream.poll_timeout(sends=not self._silenced))
        return None if deadline == inf else deadline

    # STUN

    def _receive_stun(self, data: bytes, source: Path, now: float) -> None:
        self.agent.receive_datagram(data, source, now)
        self._drain(now)

    # DTLS

    def _receive_dtls(self, data: bytes, source: Path, now: float) -> None:
        if source not in self.agent.paths:
            self.counters.unknown_protocol += 1
            return
        self.agent.received(source, len(data), now, authenticated=False)
        self._handshake_path = source
        self._dtls.receive_datagram(data, source, now)
        self._drain(now)

    def _handshake_completed(self, profile: SrtpProfile, now: float) -> None:
        material = self._dtls.export_keying_material(EXPORTER_LABEL, keying_material_length(profile))
        self._srtp = SrtpSession(profile, material, is_client=self.role is dtls.DtlsRole.CLIENT)
        if self._handshake_path is not None and self._handshake_sent_to == {self._handshake_path}:
            # Only who read our flights can have finished, and nobody else got them. Otherwise a caller could read them
            # at home and send the last flight in a stranger's name.
            self.agent.validate(self._handshake_path, now)
        self._connected_at = now
        if self._caller_sends:
            self._media_deadline = now + FIRST_MEDIA_TIMEOUT
        self.stream.start(now)
        if self.channels is not None:
            self.channels.start(now, self._dtls.round_trip)
        first_check = self._first_check if self._first_check is not None else now
        self._events.append(events.Connected(profile, first_check - self._started, now - self._started))
        self._take_early(self._srtp, now)

    def _dtls_closed(self, event: dtls.DtlsClosed) -> None:
        reason = {
            dtls.DtlsCloseReason.CLOSE_NOTIFY: EndReason.CLOSE_NOTIFY,
            dtls.DtlsCloseReason.LOCAL_CLOSE: EndReason.HANGUP,
            dtls.DtlsCloseReason.CERTIFICATE_MISMATCH: EndReason.CERTIFICATE_MISMATCH,
            dtls.DtlsCloseReason.TIMEOUT: EndReason.DTLS_TIMEOUT,
        }.get(event.reason, EndReason.DTLS_ALERT)
        self._end(reason, event.detail)

    # SRTP

    def _receive_srtp(self, data: bytes, source: Path, now: float) -> None:
        if self._srtp is None:
            self._hold_early(data, source, now)
            return
        try:
            packet = self._srtp.unprotect_rtp(data)
        except DecodeError:
            self.counters.srtp_failed += 1
            return
        if self.agent.received(source, len(data), now, authenticated=True):
            self._drain(now)
        if self._media_deadline is not None:
            self._media_started(now)
        feedback_due = self.stream.receive_rtp(packet, now)
        self._poll_frames(now)
        if feedback_due:
            self._send_feedback(now)

    def _hold_early(self, data: bytes, source: Path, now: float) -> None:
        """Keep a caller's first words for the keys, if it seems to be the caller."""
        if source not in self.agent.paths:
            self.counters.srtp_early += 1
            return
        if len(self._early) == MAX_EARLY_PACKETS:
            self.counters.srtp_early += 1
        self._early.append((data, now))

    def _take_early(self, srtp: SrtpSession, now: float) -> None:
        """Take what was held, as of when it came. It says nothing about the paths as they are now."""
        while self._early:
            data, arrived = self._early.popleft()
            try:
                packet = srtp.unprotect_rtp(data)
            except DecodeError:
                self.counters.srtp_failed += 1
                continue
            if self._media_deadline is not None:
                self._media_started(now)
            self.stream.receive_rtp(packet, arrived)
        self._poll_frames(now)
        self._send_feedback(now)

    def _media_started(self, now: float) -> None:
        self._media_deadline = None
        self._events.append(events.MediaStarted(now - self._started))

    def _receive_srtcp(self, data: bytes, source: Path, now: float) -> None:
        if self._srtp is None:
            self.counters.srtp_early += 1
            return
        try:
            packet = self._srtp.unprotect_rtcp(data)
        except DecodeError:
            self.counters.srtp_failed += 1
            return
        self.agent.received(source, len(data), now, authenticated=True)
        if self.stream.receive_rtcp(packet, now) and self._goodbyes < MAX_GOODBYES:
            self._goodbyes += 1
            self._events.append(events.MediaEnded())
        while (again := self.stream.feedback.poll_resend()) is not None:
            self._transmit(again)
        self._drain(now)

    def _run_stream(self, now: float) -> None:
        srtp = self._srtp
        if srtp is None or self.ended is not None:
            return
        self._poll_frames(now)
        if not self._silenced:
            while (packet := self.stream.poll_rtp(now)) is not None:
                if self._caller_listens:
                    protected = srtp.protect_rtp(packet)
                    self.stream.feedback.sent(protected, now)
                    self._transmit(protected)
            self._send_feedback(now)
            if self._hang_up_when_played and self._is_all_said(now):
                self.close(EndReason.BACKEND_ENDED, "the backend hung up", now)

    def _poll_frames(self, now: float) -> None:
        poll_frame = self.stream.poll_frame
        while (frame := poll_frame(now)) is not None:
            self._events.append(frame)

    def _send_feedback(self, now: float) -> None:
        if self._srtp is not None and not self._silenced and (due := self.stream.poll_feedback(now)) is not None:
            self._transmit(self._srtp.protect_rtcp(due))

    def _is_all_said(self, now: float) -> bool:
        """Whether all audio was played, and then, whether all events arrived."""
        played = self.stream.playout.poll_timeout() is None
        return played and (self.channels is None or self.channels.finish(now))

    # Data channels

    def _receive_channels(self, data: bytes, now: float) -> None:
        if self.channels is None:
            self.counters.unknown_protocol += 1
            return
        self.channels.receive_datagram(data, None, now)
        self._take_channel_events(self.channels)

    def _take_channel_events(self, channels: CallChannels) -> None:
        while (event := channels.poll_event()) is not None:
            self._events.append(event)

    def _send_channels(self) -> None:
        while self.channels is not None and (packet := self.channels.poll_transmit()) is not None:
            if self._dtls.connected and not self._silenced:
                self._dtls.send_application_data(packet.data)

    # What the machines have to say

    def _drain(self, now: float) -> None:
        while (event := self.agent.poll_event()) is not None:
            self._handle_ice(event, now)
        while (told := self._dtls.poll_event()) is not None:
            self._handle_dtls(told, now)
        while (event := self.agent.poll_event()) is not None:
            self._handle_ice(event, now)
        if self.ended is None:
            self._report(now)
            self._flush_machines()
            self._plan_housekeeping()

    def _handle_dtls(self, event: dtls.DtlsEvent, now: float) -> None:
        match event:
            case dtls.ApplicationDataReceived(data):
                if self._handshake_path is not None:
                    self.agent.received(self._handshake_path, 0, now, authenticated=True)
                self._receive_channels(data, now)
            case dtls.HandshakeCompleted():
                assert event.srtp_profile is not None  # we offered some, and require one
                self._handshake_completed(event.srtp_profile, now)
            case dtls.DtlsClosed():
                self._flush_machines()
                self._dtls_closed(event)

    def _handle_ice(self, event: ice.IceEvent, now: float) -> None:
        match event:
            case ice.PathOpened(path):
                self._events.append(events.PathOpened(path))
                if self._first_check is None:
                    self._first_check = now
                    self._handshake_path = path
                    if self.role is dtls.DtlsRole.CLIENT:
                        self._dtls.start(now)
            case ice.PathValidated(path):
                self._events.append(events.PathConfirmed(path))
            case ice.PathSelected(path):
                if self._srtp is None:
                    self._handshake_path = path
            case ice.PathReleased(path):
                self._events.append(events.PathReleased(path))
            case ice.Disconnected():
                self._silenced = True
                self._events.append(events.Disconnected())
                self._events.extend(events.PathReleased(path) for path in self.agent.paths)
            case ice.Reconnected():
                self._silenced = False
                self._events.append(events.Reconnected())
            case ice.IceFailed():
                self._end(EndReason.PEER_SILENT, "nothing was heard of the peer")

    def _report(self, now: float) -> None:
        if self._srtp is not None and not self._silenced and (report := self.stream.poll_rtcp(now)) is not None:
            self._transmit(self._srtp.protect_rtcp(report))

    def _flush_machines(self) -> None:
        self._send_channels()
        while (transmit := self.agent.poll_transmit()) is not None:
            self._datagrams.append(transmit)
        while (transmit := self._dtls.poll_transmit()) is not None:
            self._transmit(transmit.data)

    def _transmit(self, data: bytes) -> None:
        """Send by the path that ICE selected, or, before there is one, by that of the handshake."""
        path = self.agent.selected or self._handshake_path
        if path is None or not self.agent.may_send(path, len(data)):
            self.counters.over_budget += 1
            return
        self.agent.sent(path, len(data))
        self._datagrams.append(Transmit(data, path))
        if self._srtp is None and len(self._handshake_sent_to) < 2:
            self._handshake_sent_to.add(path)

    # Deadlines

    def _check_deadlines(self, now: float) -> None:
        if self._srtp is None:
            if self._first_check is None and now >= self._started + FIRST_STUN_TIMEOUT:
                if self.agent.counters.bad_integrity or self.agent.counters.unknown_username:
                    self._end(EndReason.BAD_CREDENTIALS, "every check had a wrong MESSAGE-INTEGRITY")
                else:
                    self._end(EndReason.NO_STUN, "no check arrived; is UDP to the advertised address open?")
            elif now >= self._started + SETUP_TIMEOUT:
                self._end(EndReason.DTLS_TIMEOUT, "the DTLS handshake did not finish")
        elif self._media_deadline is not None and now >= self._media_deadline:
            self._media_deadline = None
            self._events.append(events.MediaMissing())

    def _plan_housekeeping(self) -> None:
        deadlines = [self.agent.poll_timeout(), self._dtls.poll_timeout(), self._media_deadline]
        if self.channels is not None:
            deadlines.append(self.channels.poll_timeout())
        if self._srtp is None:
            wait = FIRST_STUN_TIMEOUT if self._first_check is None else SETUP_TIMEOUT
            deadlines.append(self._started + wait)
        elif not self._silenced:
            deadlines.append(self.stream.reporter.poll_timeout())
        self._housekeeping = min((deadline for deadline in deadlines if deadline is not None), default=inf)

    def _repeat_last_words(self, now: float) -> None:
        """Tell the peer once more that this is over: an alert may have got lost. The paths are released by then, so its
        answer need not come."""
        if self._dtls.closed:
            self._dtls.handle_timeout(now)
            self._flush_machines()

    def _end(self, reason: EndReason, detail: str) -> None:
        if self.ended is not None:
            return
        self.ended = events.Ended(reason, detail)
        self._events.extend(events.PathReleased(path) for path in self.agent.paths)
        self._events.append(self.ended)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
