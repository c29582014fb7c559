"""The caller's half of a call as a protocol core: controlling ICE agent, DTLS in either role, SRTP, Opus packets, and
data channels."""

from collections import deque
from collections.abc import Callable
from math import inf
from typing import NamedTuple

import msgspec

from antiphon.client.descriptions import OPUS_PAYLOAD_TYPE, Answer, read_answer, write_offer
from antiphon_common.control import IceParameters, SctpParameters, Setup
from antiphon_common.core import Path, Transmit
from antiphon_common.demux import Protocol, classify
from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_transceiver import dtls
from antiphon_transceiver.ice import ControllingAgent, IceFailed, PathSelected, ice_password, ice_ufrag
from antiphon_transceiver.rtcp import PacketFeedback, Reporter
from antiphon_transceiver.rtp import RtpOptions, RtpSender, decode_rtp
from antiphon_transceiver.sctp import MAX_MESSAGE_SIZE, DataChannelEndpoint, DataChannelEvent
from antiphon_transceiver.sctp.association import PORT
from antiphon_transceiver.srtp import EXPORTER_LABEL, SrtpProfile, SrtpSession, keying_material_length

PATIENCE = 0.1
"""Seconds for which a lost packet is worth asking for; nothing plays here, so as long as a browser might wait."""


class Connected(msgspec.Struct, frozen=True):
    """The handshake is done; audio may be sent. `after` is in seconds since the offer was made."""

    after: float


class AudioReceived(NamedTuple):
    """One packet of the server; its timestamp is that of RTP."""

    payload: bytes
    sequence: int
    timestamp: int
    payload_type: int


class Closed(msgspec.Struct, frozen=True):
    """The call is over, or never came about."""

    reason: str


Event = Connected | AudioReceived | DataChannelEvent | Closed
"""`DataChannelEvent` only of calls with data channels."""

SCTP = SctpParameters(PORT, MAX_MESSAGE_SIZE)
EVENTS_LABEL = "oai-events"


class ClientCall:
    """One call as a caller makes it: `offer`, `accept` the answer, then audio both ways until `close`.

    `setup` is what the offer says of our DTLS role: `actpass`, `active` (we are the DTLS client) or `passive`.
    `options` are the header extensions and the feedback to offer; what the answer takes of them is used. With
    `data_channels` those are offered too; if the answer takes them, `channels` is there and `oai-events` being opened.
    """

    def __init__(
        self,
        certificate: dtls.Certificate,
        random: Callable[[int], bytes],
        now: float,
        *,
        setup: Setup = "actpass",
        ntp_offset: float = 0.0,
        srtp_profiles: tuple[SrtpProfile, ...] = tuple(SrtpProfile),
        options: RtpOptions | None = None,
        data_channels: bool = False,
    ) -> None:
        self.failed_srtp = 0
        self.closed: Closed | None = None
        self._random = random
        self.certificate = certificate
        self._setup = setup
        self._profiles = srtp_profiles
        self._started = now
        self._ice_parameters = IceParameters(ice_ufrag(random), ice_password(random))
        self._ice = ControllingAgent(self._ice_parameters, random)
        self._dtls: dtls.DtlsEndpoint | None = None
        self.channels: DataChannelEndpoint | None = None
        """Use it as it is; what it tells are events of the call."""
        self.events_channel = -1
        """Its id of `oai-events`."""
        self._sctp = SCTP if data_channels else None
        self._srtp: SrtpSession | None = None
        self._path: Path | None = None
        self._sender = RtpSender.start(OPUS_PAYLOAD_TYPE, random)
        self._cname = random(9).hex()
        self._offered = options or RtpOptions()
        self.reporter = Reporter(
            self._sender.ssrc, self._cname, 48000, random, ntp_offset, reduced_size=self._offered.reduced_size
        )
        self.feedback = PacketFeedback(RtpOptions(), self._sender.ssrc)
        self._datagrams: deque[Transmit] = deque()
        self._events: deque[Event] = deque()

    # Signaling

    def offer(self) -> str:
        """Return the offer to send."""
        fingerprint = self.certificate.fingerprint()
        return write_offer(
            self._ice_parameters, fingerprint, self._setup, self._sender.ssrc, self._cname, self._offered, self._sctp
        )

    def restart_ice(self) -> str:
        """Return an offer with new ICE credentials (RFC 8445 §9); its answer goes to `accept` too. Everything but ICE
        goes on as it was."""
        self._ice_parameters = IceParameters(ice_ufrag(self._random), ice_password(self._random))
        self._ice = ControllingAgent(self._ice_parameters, self._random)
        return self.offer()

    def accept(self, answer: str, now: float) -> None:
        """Take the answer and begin to connect. Raises DecodeError."""
        description = read_answer(answer)
        if self._dtls is None:
            self._make_dtls(description)
            self.feedback = PacketFeedback(description.options, self._sender.ssrc)
        self._ice.start(description.ice, description.candidates, now)
        self._drain(now)

    # The five methods

    def receive_datagram(self, data: bytes, source: Path, now: float) -> None:
        if self.closed is not None:
            return
        protocol = classify(data)
        if protocol == Protocol.RTP and self._srtp is not None:
            self._receive_rtp(data, now)
        elif protocol == Protocol.STUN:
            self._ice.receive_datagram(data, source, now)
            self._drain(now)
        elif protocol == Protocol.DTLS and self._dtls is not None:
            self._path = self._path or source
            self._dtls.receive_datagram(data, source, now)
            self._drain(now)
        elif protocol == Protocol.RTCP and self._srtp is not None:
            self._receive_rtcp(data, now)

    def handle_timeout(self, now: float) -> None:
        if self.closed is not None:
            self._repeat_last_words(now)
            return
        self._ice.handle_timeout(now)
        if self._dtls is not None:
            self._dtls.handle_timeout(now)
        if self.channels is not None:
            self.channels.handle_timeout(now)
        self._drain(now)
        self._send_feedback(now)

    def poll_transmit(self) -> Transmit | None:
        return self._datagrams.popleft() if self._datagrams else None

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float:
        if self.closed is not None:
            return self._dtls.poll_timeout() if self._dtls is not None and self._dtls.closed else inf
        deadlines = [self._ice.poll_timeout()]
        if self._dtls is not None:
            deadlines.append(self._dtls.poll_timeout())
        if self.channels is not None:
            deadlines.append(self.channels.poll_timeout())
        if self._srtp is not None:
            deadlines.append(self.reporter.poll_timeout())
            deadlines.append(self.feedback.poll_timeout())
        return min(deadlines)

    # Local actions

    def send_audio(self, payload: bytes, timestamp: int, now: float, payload_type: int = OPUS_PAYLOAD_TYPE) -> None:
        """Send one packet; `timestamp` counts ticks of the codec's clock, Opus's 48 kHz, since the call's audio began.

        Whoever sends another payload type than Opus's has put it into the offer.
        """
        if self._srtp is None:
            raise LocalProtocolError("the call is not connected")
        self._sender.payload_type = payload_type
        packet = self._sender.packet(payload, timestamp, extension=self.feedback.extension(now))
        self.reporter.sent_rtp(self._sender.rtp_timestamp(timestamp), len(payload), now)
        protected = self._srtp.protect_rtp(packet)
        self.feedback.sent(protected, now)
        self._send(protected)

    def send_message(self, message: str | bytes) -> None:
        """Send a message over `oai-events`; it waits until the channel is open. Raises LocalProtocolError."""
        if self.channels is None:
            raise LocalProtocolError("the call has no data channels")
        self.channels.send(self.events_channel, message)

    def close(self, now: float) -> None:
        """Leave the call: BYE and close_notify."""
        if self.closed is None:
            if self._srtp is not None:
                self._send(self._srtp.protect_rtcp(self.reporter.goodbye()))
            if self._dtls is not None:
                self._dtls.close(now)
                self._drain_dtls_output()
            self._close("closed")

    # Parts

    def _make_dtls(self, description: Answer) -> None:
        role = dtls.DtlsRole.SERVER if description.setup == "active" else dtls.DtlsRole.CLIENT
        self._dtls = dtls.DtlsEndpoint(role, self.certificate, description.fingerprints, self._profiles, self._random)
        if self._sctp is not None and description.sctp is not None:
            self.channels = DataChannelEndpoint(
                role is dtls.DtlsRole.CLIENT,
                self._random,
                local_port=self._sctp.port,
                remote_port=description.sctp.port,
                peer_max_message_size=description.sctp.max_message_size,
            )
            self.events_channel = self.channels.open_channel(EVENTS_LABEL)

    def _receive_rtp(self, data: bytes, now: float) -> None:
        assert self._srtp is not None
        try:
            packet = decode_rtp(self._srtp.unprotect_rtp(data))
        except DecodeError:
            self.failed_srtp += 1
            return
        self.reporter.received_rtp(packet, now)
        if self.feedback.received(packet, now):
            self._send_feedback(now)
        self._events.append(AudioReceived(packet.payload, packet.sequence, packet.timestamp, packet.payload_type))

    def _receive_rtcp(self, data: bytes, now: float) -> None:
        assert self._srtp is not None
        try:
            packets = self.reporter.receive(self._srtp.unprotect_rtcp(data), now)
        except DecodeError:
            self.failed_srtp += 1
            return
        for packet in packets:
            self.feedback.receive(packet, now)
        while (again := self.feedback.poll_resend()) is not None:
            self._send(again)

    def _send_feedback(self, now: float) -> None:
        feedback = self.feedback.poll(now, PATIENCE, self.reporter.round_trip)
        if feedback and self._srtp is not None:
            self._send(self._srtp.protect_rtcp(self.reporter.wrap(feedback)))

    def _drain(self, now: float) -> None:
        while (event := self._ice.poll_event()) is not None:
            if isinstance(event, PathSelected):
                self._ice_connected(event.path, now)
            elif isinstance(event, IceFailed):
                self._close(f"ICE: {event.reason}")
        if self._dtls is not None:
            self._drain_dtls(self._dtls, now)
        while (transmit := self._ice.poll_transmit()) is not None:
            self._datagrams.append(transmit)
        if self._srtp is not None and (report := self.reporter.poll_report(now)) is not None:
            self._send(self._srtp.protect_rtcp(report))

    def _ice_connected(self, path: Path, now: float) -> None:
        first = self._path is None
        self._path = path
        if first and self._dtls is not None and self._dtls.role is dtls.DtlsRole.CLIENT:
            self._dtls.start(now)

    def _drain_dtls(self, endpoint: dtls.DtlsEndpoint, now: float) -> None:
        while (event := endpoint.poll_event()) is not None:
            if isinstance(event, dtls.HandshakeCompleted):
                self._handshake_completed(endpoint, event.srtp_profile, now)
            elif isinstance(event, dtls.ApplicationDataReceived) and self.channels is not None:
                self.channels.receive_datagram(event.data, None, now)
            elif isinstance(event, dtls.DtlsClosed):
                self._close(f"DTLS: {event.reason.name.lower()} {event.detail}")
        if self.channels is not None:
            self._drain_channels(self.channels, endpoint)
        self._drain_dtls_output()

    def _drain_channels(self, channels: DataChannelEndpoint, endpoint: dtls.DtlsEndpoint) -> None:
        while (event := channels.poll_event()) is not None:
            self._events.append(event)
        while (packet := channels.poll_transmit()) is not None:
            if endpoint.connected:
                endpoint.send_application_data(packet.data)

    def _handshake_completed(self, endpoint: dtls.DtlsEndpoint, profile: SrtpProfile | None, now: float) -> None:
        if profile is None:
            raise LocalProtocolError("a call without SRTP profiles")
        material = endpoint.export_keying_material(EXPORTER_LABEL, keying_material_length(profile))
        self._srtp = SrtpSession(profile, material, is_client=endpoint.role is dtls.DtlsRole.CLIENT)
        self.reporter.start(now)
        if self.channels is not None:
            self.channels.start(now, endpoint.round_trip)
        self._events.append(Connected(now - self._started))

    def _drain_dtls_output(self) -> None:
        assert self._dtls is not None
        while (transmit := self._dtls.poll_transmit()) is not None:
            self._send(transmit.data)

    def _repeat_last_words(self, now: float) -> None:
        """Tell the server once more that this is over: an alert may have got lost."""
        if self._dtls is not None and self._dtls.closed:
            self._dtls.handle_timeout(now)
            self._drain_dtls_output()

    def _send(self, data: bytes) -> None:
        if self._path is not None:
            self._datagrams.append(Transmit(data, self._path))

    def _close(self, reason: str) -> None:
        if self.closed is None:
            self.closed = Closed(reason)
            self._events.append(self.closed)
