"""The caller's half of a call against a transport, over a network in memory."""

from math import inf
from random import Random

import pytest

from antiphon.client.call import AudioReceived, ClientCall, ClientCallEvent, ClientClosed, ClientConnected
from antiphon_common.control import CallAccepted, IceParameters, SctpParameters
from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_signaling.sdp import Offer, read_offer, write_answer
from antiphon_transceiver.dtls import DtlsEndpoint, DtlsRole
from antiphon_transceiver.ice import ControlledAgent
from antiphon_transceiver.peer_transport import PeerTransport
from antiphon_transceiver.rtcp import Bye, decode_rtcp
from antiphon_transceiver.rtp import RtpSender
from antiphon_transceiver.sctp import MAX_MESSAGE_SIZE, DataChannelEndpoint, DataChannelEvent, MessageReceived
from antiphon_transceiver.srtp import SrtpProfile
from antiphon_transceiver.transport_events import RtcpReceived, RtpReceived, TransportEvent
from support.net.impairment import Impairment
from support.peers.certificates import certificate
from support.sim.memory_network import MemoryNetwork

SERVER = IceParameters("ServerUfragOf23IceChars", "server-password-of-32-characters")
DELAY = 0.025
FAR_AWAY = Impairment(delay=DELAY)
PACKET = b"\xf8twenty milliseconds"


class AnsweredCall:
    """A client (left) whose offer was answered by a transport alone (right)."""

    def __init__(self, *, data_channels: bool = False, presents: str = "server") -> None:
        """`presents` names the certificate of the server. The answer announces the one of `server`."""
        random = Random(1).randbytes
        self.client = ClientCall(certificate("client"), random, 0.0, data_channels=data_channels)
        offer = read_offer(self.client.offer().encode())
        request = offer.call_request("rtc_1", "tenant", {})
        self.agent = ControlledAgent(SERVER, request.ice, random)
        profiles = tuple(SrtpProfile)
        endpoint = DtlsEndpoint(DtlsRole.CLIENT, certificate(presents), request.fingerprints, profiles, random)
        channels = None if request.sctp is None else DataChannelEndpoint(True, random)
        self.server: PeerTransport[DataChannelEvent] = PeerTransport(self.agent, endpoint, channels, 0.0)
        self.network: MemoryNetwork[ClientCallEvent, TransportEvent | DataChannelEvent] = MemoryNetwork(
            self.client, self.server, FAR_AWAY
        )
        self.client.accept(self.answer(offer, SERVER), 0.0)

    def answer(self, offer: Offer, local: IceParameters) -> str:
        sctp = None if self.server.channels is None else SctpParameters(5000, MAX_MESSAGE_SIZE)
        accepted = CallAccepted(local, "active", certificate("server").fingerprint(), 1234, "cname", sctp)
        path = self.network.right.path
        return write_answer(offer, accepted, [(path.host, path.port)], 1).encode().decode()

    def connect(self) -> "AnsweredCall":
        events = self.network.left.events
        assert self.network.run(lambda: any(isinstance(event, ClientConnected) for event in events), limit=2.0)
        self.run(0.5)
        return self

    def run(self, seconds: float) -> None:
        self.network.run(limit=self.network.now + seconds)

    @property
    def received(self) -> list[bytes]:
        """Return the RTP packets that the server received."""
        return [event.packet for event in self.network.right.events if isinstance(event, RtpReceived)]


def test_connected_is_reported_with_the_time_since_the_offer() -> None:
    call = AnsweredCall().connect()
    (connected,) = call.network.left.events
    assert isinstance(connected, ClientConnected)
    assert 4 * DELAY <= connected.after < 8 * DELAY


def test_audio_passes_in_both_directions_of_a_call() -> None:
    call = AnsweredCall().connect()
    call.client.send_audio(PACKET, 0, call.network.now)
    call.server.send_rtp(RtpSender(1234, 111, 7).packet(PACKET, 0))
    call.run(1)
    assert [packet[12:] for packet in call.received] == [PACKET]
    (audio,) = (event for event in call.network.left.events if isinstance(event, AudioReceived))
    assert (audio.payload, audio.sequence, audio.payload_type) == (PACKET, 7, 111)


def test_rtcp_reports_are_sent_during_the_call_and_a_bye_at_its_end() -> None:
    call = AnsweredCall().connect()
    for number in range(500):
        call.client.send_audio(PACKET, 960 * number, call.network.now)
        call.run(0.02)
    call.client.close(call.network.now)
    call.run(1)
    compounds = [decode_rtcp(event.packet) for event in call.network.right.events if isinstance(event, RtcpReceived)]
    assert len(compounds) > 2
    ends = [any(isinstance(packet, Bye) for packet in packets) for packets in compounds]
    assert ends == [False] * (len(compounds) - 1) + [True]


def test_a_message_is_sent_over_the_events_channel() -> None:
    call = AnsweredCall(data_channels=True).connect()
    call.client.send_message("up")
    call.run(1)
    (message,) = (event for event in call.network.right.events if isinstance(event, MessageReceived))
    assert (message.id, message.data) == (call.client.events_channel, "up")


def test_sending_media_or_messages_before_the_answer_raises_an_error() -> None:
    client = ClientCall(certificate("client"), Random(1).randbytes, 0.0)
    with pytest.raises(LocalProtocolError):
        client.send_audio(PACKET, 0, 0.0)
    with pytest.raises(LocalProtocolError):
        client.send_message("up")
    with pytest.raises(DecodeError):
        client.accept("v=0\r\n", 0.0)
    assert client.poll_timeout() == inf


def test_an_ice_restart_keeps_the_call() -> None:
    call = AnsweredCall().connect()
    offer = read_offer(call.client.restart_ice().encode())
    fresh = IceParameters("AnotherUfragOf23Chars++", "x" * 32)
    call.agent.restart(fresh, offer.ice)
    moved = call.network.left.path = call.network.left.path._replace(port=7777)
    call.client.accept(call.answer(offer, fresh), call.network.now)
    call.run(1)
    assert call.agent.selected == moved
    call.client.send_audio(PACKET, 0, call.network.now)
    call.run(1)
    assert len(call.received) == 1


def test_a_server_with_another_certificate_than_the_answer_announced_is_refused() -> None:
    call = AnsweredCall(presents="another")
    call.run(5)
    assert call.client.closed is not None
    assert call.client.closed.reason.startswith("DTLS: certificate_mismatch")


def test_a_server_that_answers_no_check_ends_the_call() -> None:
    call = AnsweredCall()
    call.network.right.rewrite = lambda datagram: []
    call.run(20)
    assert call.network.left.events == [ClientClosed("ICE: no candidate answered")]


def test_a_close_before_the_answer_is_reported_once() -> None:
    client = ClientCall(certificate("client"), Random(1).randbytes, 0.0)
    client.close(1.0)
    client.close(2.0)
    assert list(iter(client.poll_event, None)) == [ClientClosed("closed")]


def test_authentic_packets_that_are_malformed_rtp_are_counted() -> None:
    call = AnsweredCall().connect()
    call.server.send_rtp(bytes.fromhex("a06f0001 00000000 11111111") + b"\xff")
    call.run(1)
    assert call.client.failed_srtp == call.client.malformed == 1
