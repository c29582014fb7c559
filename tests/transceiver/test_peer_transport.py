"""Two transports connected in memory, with one ICE agent of each role."""

from math import inf
from typing import Any, TypeVar

import pytest

from antiphon_common.control import IceParameters
from antiphon_common.core import Path
from antiphon_common.demux import Protocol, classify
from antiphon_common.errors import LocalProtocolError
from antiphon_transceiver.dtls.record import ContentType
from antiphon_transceiver.ice import (
    CheckAccepted,
    Disconnected,
    PathReleased,
    PathSelected,
    PathValidated,
    Reconnected,
)
from antiphon_transceiver.peer_transport import (
    FIRST_CHECK_TIMEOUT,
    SETUP_TIMEOUT,
    TRANSITIONS,
    PeerTransport,
    TransportState,
    TransportStep,
)
from antiphon_transceiver.sctp import DataChannelEndpoint, DataChannelEvent, MessageReceived
from antiphon_transceiver.srtp import SrtpProfile
from antiphon_transceiver.transport_events import (
    Closed,
    Connected,
    RtcpReceived,
    RtpReceived,
    TransportCloseReason,
)
from support.net.impairment import Impairment
from support.sim.memory_network import Station
from support.sim.transport_peers import CONTROLLED, DELAY, Event, TransportPeers

AGAIN = IceParameters("another", "another-password-24-char")
RTP = bytes.fromhex("806f0001 00000000 11111111") + b"twenty milliseconds"
RTCP = bytes.fromhex("80c90001 11111111")
STUN_SUCCESS = b"\1\1"
SPOOFED = Path.of("203.0.113.9", 9)

Kind = TypeVar("Kind")


def of(station: Station[Event], kind: type[Kind]) -> list[Kind]:
    return [event for event in station.events if isinstance(event, kind)]


def channel(transport: PeerTransport[DataChannelEvent]) -> DataChannelEndpoint:
    assert isinstance(transport.channels, DataChannelEndpoint)
    return transport.channels


def is_in(state: TransportState, transport: PeerTransport[DataChannelEvent]) -> bool:
    return transport.state is state


def mute(station: Station[Any]) -> None:
    station.rewrite = lambda datagram: []


def unmute(station: Station[Any]) -> None:
    station.rewrite = lambda datagram: [datagram]


@pytest.mark.parametrize("client", ["left", "right"])
def test_transports_connect_in_either_dtls_role(client: str) -> None:
    peers = TransportPeers(client).connect()
    for station in (peers.network.left, peers.network.right):
        (connected,) = of(station, Connected)
        assert connected.srtp_profile is SrtpProfile.AEAD_AES_128_GCM
        assert 0 < connected.first_check_after < connected.handshake_after < 0.5
        assert of(station, PathSelected)
        assert of(station, PathValidated)
    assert peers.left.agent.selected == peers.network.right.path
    assert peers.right.agent.selected == peers.network.left.path


@pytest.mark.parametrize("seed", range(5))
def test_connects_on_a_bad_network(seed: int) -> None:
    print(f"seed {seed}")
    peers = TransportPeers(
        seed=seed, impairment=Impairment(delay=DELAY, loss=0.2, duplication=0.1, reordering=0.1)
    ).start()
    both = (peers.left, peers.right)
    assert peers.network.run(lambda: all(side.state is TransportState.CONNECTED for side in both), limit=20.0)


def test_each_accepted_check_is_reported() -> None:
    peers = TransportPeers().connect()
    before = len(of(peers.network.right, CheckAccepted))
    assert before >= 2
    peers.run(20)
    assert len(of(peers.network.right, CheckAccepted)) >= before + 2
    assert {event.path for event in of(peers.network.right, CheckAccepted)} == {peers.network.left.path}


def test_rtp_and_rtcp_arrive_decrypted_with_their_time() -> None:
    peers = TransportPeers().connect()
    sent_at = peers.network.now
    protected = peers.left.send_rtp(RTP)
    peers.left.send_rtcp(RTCP)
    peers.run(1)
    assert RTP not in protected
    assert protected in peers.network.left.sent
    (received,) = of(peers.network.right, RtpReceived)
    assert received.packet == RTP
    assert received.arrived == pytest.approx(sent_at + DELAY)
    assert of(peers.network.right, RtcpReceived) == [RtcpReceived(RTCP)]


def test_a_retransmitted_packet_has_the_same_bytes_and_is_a_replay_for_the_peer() -> None:
    peers = TransportPeers().connect()
    peers.left.send_protected(peers.left.send_rtp(RTP))
    peers.run(1)
    assert len(of(peers.network.right, RtpReceived)) == 1
    assert peers.right.counters.srtp_failed == 1


def test_messages_are_sent_over_data_channels() -> None:
    peers = TransportPeers().connect()
    number = channel(peers.left).open_channel("events")
    peers.left.flush(peers.network.now)
    peers.run(1)
    channel(peers.right).send(number, "down")
    peers.right.update_timeout()
    channel(peers.left).send(number, "up")
    peers.left.update_timeout()
    peers.run(1)
    assert of(peers.network.right, MessageReceived) == [MessageReceived(number, "up")]
    assert of(peers.network.left, MessageReceived) == [MessageReceived(number, "down")]


def test_sending_media_before_the_handshake_raises_an_error() -> None:
    peers = TransportPeers()
    with pytest.raises(LocalProtocolError):
        peers.left.send_rtp(RTP)
    with pytest.raises(LocalProtocolError):
        peers.left.send_rtcp(RTCP)


def test_rtp_that_arrives_before_its_keys_is_reported_after_connected_with_its_own_time() -> None:
    peers = TransportPeers()

    def lose_finished(datagram: bytes) -> list[bytes]:
        return [] if datagram[0] == ContentType.CHANGE_CIPHER_SPEC and peers.network.now < 0.5 else [datagram]

    peers.network.left.rewrite = lose_finished
    peers.start()
    assert peers.network.run(lambda: bool(of(peers.network.left, Connected)), limit=1.0)
    sent_at = peers.network.now
    peers.left.send_rtp(RTP)
    assert peers.network.run(lambda: peers.right.state is TransportState.CONNECTED, limit=3.0)
    arrivals = [event for event in peers.network.right.events if isinstance(event, Connected | RtpReceived)]
    assert [type(event) for event in arrivals] == [Connected, RtpReceived]
    (received,) = of(peers.network.right, RtpReceived)
    assert received.packet == RTP
    assert received.arrived == pytest.approx(sent_at + DELAY)


def test_authenticated_is_true_only_for_datagrams_of_the_peer() -> None:
    peers = TransportPeers().connect()
    caught: list[bytes] = []
    peers.network.left.rewrite = lambda datagram: caught.append(datagram) or []  # type: ignore[func-returns-value]
    peers.left.send_rtp(RTP)
    peers.left.send_rtcp(RTCP)
    channel(peers.left).open_channel("events")
    peers.left.flush(peers.network.now)
    peers.run(7)
    home, seen = peers.network.left.path, set[int]()
    for datagram in (data for data in caught if data[:2] != STUN_SUCCESS):
        peers.right.receive_datagram(datagram[:-1] + bytes((datagram[-1] ^ 1,)), home, peers.network.now)
        forged = peers.right.authenticated
        peers.right.receive_datagram(datagram, home, peers.network.now)
        assert (forged, peers.right.authenticated) == (False, True)
        seen.add(classify(datagram))
    assert seen == {Protocol.STUN, Protocol.DTLS, Protocol.RTP, Protocol.RTCP}


def test_a_handshake_from_an_address_without_a_check_is_dropped() -> None:
    peers = TransportPeers().start()
    peers.network.run(lambda: any(data[0] == ContentType.HANDSHAKE for data in peers.network.left.sent), limit=1.0)
    flight = next(data for data in peers.network.left.sent if data[0] == ContentType.HANDSHAKE)
    dropped = peers.right.counters.unknown_protocol
    peers.right.receive_datagram(flight, SPOOFED, peers.network.now)
    peers.right.receive_datagram(RTP, SPOOFED, peers.network.now)
    peers.right.receive_datagram(b"\xff\xff", SPOOFED, peers.network.now)
    assert peers.right.counters.unknown_protocol == dropped + 2
    assert peers.right.counters.srtp_early == 1


@pytest.mark.parametrize("closing", ["left", "right"])
def test_close_releases_every_path_and_retransmits_a_lost_close_alert(closing: str) -> None:
    peers = TransportPeers().connect()
    near, far = peers.network.left, peers.network.right
    transport = peers.left if closing == "left" else peers.right
    if closing == "right":
        near, far = far, near
    mute(near)
    transport.close(peers.network.now)
    peers.network.drain()
    unmute(near)
    assert near.events[-1] == Closed(TransportCloseReason.LOCAL, "")
    assert near.events[-2] == PathReleased(far.path)
    peers.run(60)
    assert far.events[-1] == Closed(TransportCloseReason.CLOSE_NOTIFY, "")
    assert far.events[-2] == PathReleased(near.path)
    assert peers.left.poll_timeout() == peers.right.poll_timeout() == inf
    transport.close(peers.network.now)
    transport.receive_datagram(RTP, far.path, peers.network.now)
    assert (transport.poll_event(), transport.poll_transmit()) == (None, None)


def test_an_ice_restart_keeps_the_keys_and_uses_the_new_generation() -> None:
    peers = TransportPeers().connect()
    peers.controlling.restart(AGAIN)
    assert peers.left.agent.selected == peers.network.right.path, "media goes on"
    peers.left.send_rtp(RTP)
    fresh = IceParameters("fresh", "fresh-password-of-24-cha")
    peers.controlled.restart(fresh, AGAIN)
    peers.network.left.path = Path.of("192.0.2.77", 7777)
    peers.controlling.start(fresh, [peers.network.right.path], peers.network.now)
    peers.left.flush(peers.network.now)
    peers.run(1)
    assert len(of(peers.network.right, RtpReceived)) == 1
    assert peers.right.agent.selected == peers.network.left.path
    assert of(peers.network.right, PathSelected)[-1] == PathSelected(peers.network.left.path)
    assert len(of(peers.network.right, Connected)) == 1


def test_a_silent_peer_is_disconnected_and_reconnects() -> None:
    peers = TransportPeers().connect()
    mute(peers.network.left)
    peers.run(6)
    assert is_in(TransportState.DISCONNECTED, peers.right)
    left, right = peers.network.left.path, peers.network.right
    silent = [event for event in right.events if isinstance(event, Disconnected | PathReleased)]
    assert silent == [Disconnected(), PathReleased(left)]
    unmute(peers.network.left)
    peers.left.send_rtp(RTP)
    peers.run(1)
    assert is_in(TransportState.CONNECTED, peers.right)
    assert of(right, Reconnected) == [Reconnected()]


def rtp(number: int) -> bytes:
    return bytes.fromhex("806f") + number.to_bytes(2, "big") + bytes.fromhex("00000000 11111111") + b"audio"


def test_srtp_by_the_selected_path_keeps_the_peer_connected_without_checks() -> None:
    peers = TransportPeers().connect()
    peers.network.left.rewrite = lambda datagram: [] if classify(datagram) == Protocol.STUN else [datagram]
    for number in range(40):
        peers.left.send_rtp(rtp(number))
        peers.run(0.2)
    assert len(of(peers.network.right, RtpReceived)) >= 39
    assert not of(peers.network.right, Disconnected)


def test_srtp_from_an_address_without_a_check_does_not_keep_the_peer_connected() -> None:
    peers = TransportPeers().connect()
    mute(peers.network.left)
    for number in range(40):
        peers.right.receive_datagram(peers.left.send_rtp(rtp(number)), SPOOFED, peers.network.now)
        peers.run(0.2)
    assert of(peers.network.right, Disconnected)


def test_messages_wait_while_the_peer_is_disconnected() -> None:
    peers = TransportPeers().connect()
    number = channel(peers.right).open_channel("events")
    peers.right.flush(peers.network.now)
    peers.run(1)
    mute(peers.network.left)
    peers.run(6)
    before = sum(classify(datagram) == Protocol.DTLS for datagram in peers.network.right.sent)
    channel(peers.right).send(number, "late")
    peers.right.update_timeout()
    peers.run(5)
    assert sum(classify(datagram) == Protocol.DTLS for datagram in peers.network.right.sent) == before
    unmute(peers.network.left)
    peers.run(10)
    assert of(peers.network.left, MessageReceived) == [MessageReceived(number, "late")]


def test_a_peer_that_stays_silent_ends_the_transport_and_releases_its_path() -> None:
    peers = TransportPeers().connect()
    mute(peers.network.left)
    mute(peers.network.right)
    peers.run(61)
    for station, path in (
        (peers.network.left, peers.network.right.path),
        (peers.network.right, peers.network.left.path),
    ):
        assert PathReleased(path) in station.events
        assert station.events[-1] == Closed(TransportCloseReason.CONSENT_EXPIRED, "")
    assert peers.left.poll_timeout() == peers.right.poll_timeout() == inf


def test_the_controlled_side_fails_without_a_check() -> None:
    peers = TransportPeers()
    peers.run(FIRST_CHECK_TIMEOUT - 0.1)
    assert peers.right.state is TransportState.NEW
    peers.run(0.2)
    (closed,) = of(peers.network.right, Closed)
    assert closed.reason is TransportCloseReason.NO_CHECK


def test_a_transport_that_receives_checks_with_a_wrong_password_ends_with_that_reason() -> None:
    peers = TransportPeers()
    wrong = IceParameters(CONTROLLED.ufrag, "x" * 24)
    peers.controlling.start(wrong, [peers.network.right.path], 0.0)
    peers.left.flush(0.0)
    peers.run(FIRST_CHECK_TIMEOUT + 0.1)
    assert [event.reason for event in of(peers.network.right, Closed)] == [TransportCloseReason.BAD_CREDENTIALS]
    assert [event.reason for event in of(peers.network.left, Closed)] == [TransportCloseReason.NO_ANSWER]


def test_a_handshake_that_does_not_finish_ends_the_transport() -> None:
    peers = TransportPeers()
    peers.network.left.rewrite = lambda datagram: [datagram] if classify(datagram) == Protocol.STUN else []
    peers.start()
    peers.run(SETUP_TIMEOUT + 0.1)
    assert [event.reason for event in of(peers.network.right, Closed)] == [TransportCloseReason.HANDSHAKE_TIMEOUT]


def test_every_state_but_closed_can_close_and_is_reached() -> None:
    for state in TransportState:
        assert ((state, TransportStep.CLOSED) in TRANSITIONS) is (state is not TransportState.CLOSED)
    assert set(TRANSITIONS.values()) == set(TransportState) - {TransportState.NEW}
