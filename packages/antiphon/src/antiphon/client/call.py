"""The caller's side of a call as a protocol core: a `PeerTransport` with a controlling ICE agent, and Opus packets."""

from collections import deque
from collections.abc import Callable
from math import inf
from typing import NamedTuple

import msgspec

from antiphon.client.descriptions import OPUS_PAYLOAD_TYPE, Answer, read_answer, write_offer
from antiphon_common.control import IceParameters, SctpParameters, Setup
from antiphon_common.core import Path, Transmit
from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_transceiver import dtls
from antiphon_transceiver.ice import ControllingAgent, ice_password, ice_ufrag
from antiphon_transceiver.peer_transport import PeerTransport
from antiphon_transceiver.rtcp import Reporter
from antiphon_transceiver.rtp import RtpOptions, RtpReceiver, RtpSender, decode_rtp
from antiphon_transceiver.sctp import (
    MAX_MESSAGE_SIZE,
    AssociationClosed,
    BufferedAmountLow,
    ChannelClosed,
    ChannelOpened,
    DataChannelEndpoint,
    DataChannelEvent,
    MessageReceived,
)
from antiphon_transceiver.sctp.association import PORT
from antiphon_transceiver.srtp import SrtpProfile
from antiphon_transceiver.transport_events import (
    Closed,
    Connected,
    RtcpReceived,
    RtpReceived,
    TransportCloseReason,
    TransportEvent,
)

OPUS_CLOCK_RATE = 48_000
"""RTP ticks a second (RFC 7587 §4.1)."""

MAXIMUM_WAIT = 0.1
"""Seconds after its loss in which a packet is requested again. Nothing is played here, so the value is a browser's."""

SCTP = SctpParameters(PORT, MAX_MESSAGE_SIZE)
EVENTS_LABEL = "oai-events"


class ClientConnected(msgspec.Struct, frozen=True):
    """The handshake finished `after` seconds from the offer. From now on audio may be sent."""

    after: float


class AudioReceived(NamedTuple):
    """One RTP packet of the server was received. `timestamp` is the RTP timestamp."""

    payload: bytes
    sequence: int
    timestamp: int
    payload_type: int


class ClientClosed(msgspec.Struct, frozen=True):
    """The call ended or failed. It is the last event, and `reason` is text for people."""

    reason: str


ClientCallEvent = ClientConnected | AudioReceived | DataChannelEvent | ClientClosed
"""The events of a call. Only calls with data channels have a `DataChannelEvent`."""

_DTLS_REASONS = (
    TransportCloseReason.CLOSE_NOTIFY,
    TransportCloseReason.DTLS_ALERT,
    TransportCloseReason.CERTIFICATE_MISMATCH,
    TransportCloseReason.HANDSHAKE_TIMEOUT,
)


class ClientCall:
    """One call from the caller's side, a protocol core. Send the `offer`, `accept` the answer, and `close` in the end.

    `setup` is our DTLS role in the offer: `actpass`, `active` (we are the DTLS client) or `passive`. `options` are the
    header extensions and the feedback to offer; those that the answer accepts are used. With `data_channels`, data
    channels are offered too. If the answer accepts them, `channels` is set, and `oai-events` opens.
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
        self.certificate = certificate
        self.closed: ClientClosed | None = None
        self.malformed = 0
        """Authenticated packets that are malformed RTP or RTCP."""
        self.ice_parameters = IceParameters(ice_ufrag(random), ice_password(random))
        """Our ICE credentials of the newest generation."""
        self.agent = ControllingAgent(self.ice_parameters, random)
        self.transport: PeerTransport[DataChannelEvent] | None = None
        """The transport, once the answer was accepted."""
        self.channels: DataChannelEndpoint | None = None
        """The data channels, which may be used directly. Their events are among those of the call."""
        self.events_channel = -1
        """The id of `oai-events`."""
        self.sender = RtpSender.start(OPUS_PAYLOAD_TYPE, random, ntp_offset=ntp_offset)
        self.receiver = RtpReceiver(OPUS_CLOCK_RATE)
        self._random = random
        self._setup = setup
        self._profiles = srtp_profiles
        self._started = now
        self._sctp = SCTP if data_channels else None
        self._cname = random(9).hex()
        self._offered = options or RtpOptions()
        self.reporter = Reporter(
            self.sender.statistics,
            self.receiver.sources,
            self._cname,
            random,
            reduced_size=self._offered.reduced_size,
        )
        self._events: deque[ClientCallEvent] = deque()

    @property
    def failed_srtp(self) -> int:
        """SRTP and SRTCP packets that failed authentication or were malformed."""
        return self.malformed + (0 if self.transport is None else self.transport.counters.srtp_failed)

    # Signaling

    def offer(self) -> str:
        """Return the offer to send."""
        fingerprint = self.certificate.fingerprint()
        return write_offer(
            self.ice_parameters, fingerprint, self._setup, self.sender.ssrc, self._cname, self._offered, self._sctp
        )

    def restart_ice(self) -> str:
        """Return an offer with new ICE credentials (RFC 8445 §9). Pass its answer to `accept` as well.

        DTLS, SRTP and data channels are kept.
        """
        self.ice_parameters = IceParameters(ice_ufrag(self._random), ice_password(self._random))
        self.agent.restart(self.ice_parameters)
        return self.offer()

    def accept(self, answer: str, now: float) -> None:
        """Accept the answer, and begin to connect. Raises DecodeError when the answer cannot be used."""
        description = read_answer(answer)
        if self.transport is None:
            self.transport = self._make_transport(description, now)
            self.sender.negotiate(description.options)
            self.receiver.negotiate(description.options)
        self.agent.start(description.ice, description.candidates, now)
        self.transport.flush(now)

    # The five methods

    def receive_datagram(self, data: bytes, source: Path, now: float) -> None:
        """Handle one datagram. Datagrams before the answer are dropped."""
        if self.transport is not None:
            self.transport.receive_datagram(data, source, now)
            self._handle_events(self.transport, now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due by `now`: that of the transport, reports and feedback."""
        transport = self.transport
        if transport is not None:
            transport.handle_timeout(now)
            self._handle_events(transport, now)
            if self.closed is None and transport.srtp is not None:
                self._send_reports(transport, now)

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return None if self.transport is None else self.transport.poll_transmit()

    def poll_event(self) -> ClientCallEvent | None:
        """Return the next event, or None."""
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float:
        """Return when `handle_timeout` is due; infinity for never."""
        transport = self.transport
        if transport is None:
            return inf
        if self.channels is not None:
            transport.update_timeout()
        if self.closed is not None or transport.srtp is None:
            return transport.deadline
        return min(transport.deadline, self.reporter.poll_timeout(), self.receiver.poll_timeout())

    # Local actions

    def send_audio(self, payload: bytes, timestamp: int, now: float, payload_type: int = OPUS_PAYLOAD_TYPE) -> None:
        """Send one audio packet. `timestamp` is in RTP ticks since the call's audio began, 48 kHz for Opus.

        Another payload type than that of Opus must be in the offer. Raises LocalProtocolError before the answer is
        accepted.
        """
        if self.transport is None:
            raise LocalProtocolError("the call is not connected")
        self.sender.payload_type = payload_type
        self.sender.sent(self.transport.send_rtp(self.sender.packet(payload, timestamp, now)), now)

    def send_message(self, message: str | bytes) -> None:
        """Send a message over `oai-events`. It waits until the channel is open.

        Raises LocalProtocolError if the call has no data channels, and as `DataChannelEndpoint.send` does.
        """
        if self.transport is None or self.channels is None:
            raise LocalProtocolError("the call has no data channels")
        self.channels.send(self.events_channel, message)
        self.transport.update_timeout()

    def close(self, now: float) -> None:
        """End the call: send BYE and close_notify."""
        if self.closed is not None:
            return
        if self.transport is None:
            self._close("closed")
            return
        if self.transport.srtp is not None:
            self.transport.send_rtcp(self.reporter.bye())
        self.transport.close(now)
        self._handle_events(self.transport, now)

    # The transport

    def _make_transport(self, description: Answer, now: float) -> PeerTransport[DataChannelEvent]:
        role = dtls.DtlsRole.SERVER if description.setup == "active" else dtls.DtlsRole.CLIENT
        endpoint = dtls.DtlsEndpoint(role, self.certificate, description.fingerprints, self._profiles, self._random)
        if self._sctp is not None and description.sctp is not None:
            self.channels = DataChannelEndpoint(
                role is dtls.DtlsRole.CLIENT,
                self._random,
                local_port=self._sctp.port,
                remote_port=description.sctp.port,
                peer_max_message_size=description.sctp.max_message_size,
            )
            self.events_channel = self.channels.open_channel(EVENTS_LABEL)
        return PeerTransport(self.agent, endpoint, self.channels, now)

    def _handle_events(self, transport: PeerTransport[DataChannelEvent], now: float) -> None:
        while (event := transport.poll_event()) is not None:
            if isinstance(event, RtpReceived):
                self._receive_rtp(event, transport, now)
            else:
                self._handle(event, transport, now)

    def _handle(
        self, event: TransportEvent | DataChannelEvent, transport: PeerTransport[DataChannelEvent], now: float
    ) -> None:
        match event:
            case RtcpReceived(packet):
                self._receive_rtcp(packet, transport, now)
            case Connected():
                self.reporter.start(now)
                self._events.append(ClientConnected(now - self._started))
            case Closed(reason=reason, detail=detail):
                self._close(_describe(reason, detail))
            case ChannelOpened() | MessageReceived() | BufferedAmountLow() | ChannelClosed() | AssociationClosed():
                self._events.append(event)

    def _receive_rtp(self, event: RtpReceived, transport: PeerTransport[DataChannelEvent], now: float) -> None:
        try:
            packet = decode_rtp(event.packet)
        except DecodeError:
            self.malformed += 1
            return
        self.receiver.receive(packet, event.arrived)
        if event.arrived >= self.receiver.feedback_at:
            self._send_feedback(transport, now)
        self._events.append(AudioReceived(packet.payload, packet.sequence, packet.timestamp, packet.payload_type))

    def _receive_rtcp(self, packet: bytes, transport: PeerTransport[DataChannelEvent], now: float) -> None:
        try:
            packets = self.reporter.receive(packet, now)
        except DecodeError:
            self.malformed += 1
            return
        for part in packets:
            self.sender.receive_feedback(part, now)
            self.receiver.receive_rtcp(part)
        while (again := self.sender.poll_retransmission()) is not None:
            transport.send_protected(again)

    def _send_reports(self, transport: PeerTransport[DataChannelEvent], now: float) -> None:
        if (report := self.reporter.poll_report(now)) is not None:
            transport.send_rtcp(report)
        self._send_feedback(transport, now)

    def _send_feedback(self, transport: PeerTransport[DataChannelEvent], now: float) -> None:
        feedback = self.receiver.poll_feedback(self.sender.ssrc, now, MAXIMUM_WAIT, self.reporter.round_trip)
        if feedback:
            transport.send_rtcp(self.reporter.wrap(feedback))

    def _close(self, reason: str) -> None:
        self.closed = ClientClosed(reason)
        self._events.append(self.closed)


def _describe(reason: TransportCloseReason, detail: str) -> str:
    """Return the reason for which a call ended, as text for people."""
    if reason is TransportCloseReason.LOCAL:
        return "closed"
    if reason in _DTLS_REASONS:
        return f"DTLS: {reason.name.lower()} {detail}"
    return f"ICE: {reason.value}"
