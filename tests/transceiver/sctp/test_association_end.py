"""The end of an association, and its behaviour while idle."""

import pytest

from antiphon_common.errors import LocalProtocolError
from antiphon_transceiver.sctp import AssociationCloseReason
from antiphon_transceiver.sctp.chunks import Abort, Heartbeat, HeartbeatAck, Unknown
from antiphon_transceiver.sctp.heartbeat import HEARTBEAT_INTERVAL, Heartbeats
from antiphon_transceiver.sctp.lifecycle import SHUTDOWN_DEADLINE
from antiphon_transceiver.sctp.packet import SctpPacket
from antiphon_transceiver.sctp.parameters import Parameter
from support.net.impairment import Impairment
from support.peers.sctp_pair import SctpPeers, chunks_of, closings, forge, make_sctp_peers, messages

FAR = Impairment(delay=0.05)


def reasons(peers: SctpPeers) -> tuple[list[AssociationCloseReason], list[AssociationCloseReason]]:
    left, right = closings(peers.network.left), closings(peers.network.right)
    return [closed.reason for closed in left], [closed.reason for closed in right]


def test_shutdown_delivers_all_data_first() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    peers.client.send(peers.client.open_channel("test"), bytes(200_000))
    peers.client.close(peers.network.now)
    assert peers.network.run(lambda: peers.client.closed and peers.server.closed, limit=10.0)
    assert messages(peers.network.right) == [bytes(200_000)]
    assert reasons(peers) == ([AssociationCloseReason.LOCAL_CLOSE], [AssociationCloseReason.PEER_CLOSED])
    assert chunks_of(peers.network.left.sent[-1]) == ["ShutdownComplete"]
    with pytest.raises(LocalProtocolError):
        peers.client.open_channel("too late")


def test_both_sides_shut_down_at_once() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    peers.client.close(peers.network.now)
    peers.server.close(peers.network.now)
    assert peers.network.run(lambda: peers.client.closed and peers.server.closed, limit=1.0)
    assert reasons(peers) == ([AssociationCloseReason.LOCAL_CLOSE], [AssociationCloseReason.LOCAL_CLOSE])


@pytest.mark.parametrize("seed", range(20))
def test_shutdown_over_a_lossy_network_ends_in_time(seed: int) -> None:
    peers = make_sctp_peers(seed, Impairment(loss=0.3, delay=0.02, reordering=0.2)).establish()
    began = peers.network.now
    peers.client.close(began)
    assert peers.network.run(lambda: peers.client.closed, limit=began + SHUTDOWN_DEADLINE), f"seed {seed}"
    assert peers.network.run(lambda: peers.server.closed, limit=began + 2 * SHUTDOWN_DEADLINE), f"seed {seed}"
    assert reasons(peers)[0] == [AssociationCloseReason.LOCAL_CLOSE]


def test_shutdown_without_an_answer_aborts_at_the_deadline() -> None:
    peers = make_sctp_peers().establish()
    peers.network.right.rewrite = lambda packet: []
    began = peers.network.now
    peers.client.close(began)
    peers.network.run(lambda: peers.client.closed, limit=60.0)
    assert peers.network.now == began + SHUTDOWN_DEADLINE
    assert chunks_of(peers.network.left.sent[-1]) == ["Abort"]


def test_an_abort_ends_both_sides_at_once() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    peers.client.abort(peers.network.now)
    assert reasons(peers)[0] == []  # not polled yet
    assert peers.network.run(lambda: peers.server.closed, limit=peers.network.now + 0.06)
    assert reasons(peers) == ([AssociationCloseReason.LOCAL_CLOSE], [AssociationCloseReason.ABORT_RECEIVED])


def test_an_abort_with_a_wrong_verification_tag_is_dropped() -> None:
    peers = make_sctp_peers().establish()
    ours, theirs = SctpPacket.decode(peers.network.left.sent[-1]), SctpPacket.decode(peers.network.right.sent[-1])
    path = peers.network.left.path
    for wrong in (ours._replace(tag=9, chunks=[Abort()]), ours._replace(chunks=[Abort((), True)])):
        peers.server.receive_datagram(wrong.encode(), path, 1.0)
    assert not peers.server.closed
    # Reflected, it has the tag of the association it answers: the one the server sends to (RFC 9260 §8.5.1).
    peers.server.receive_datagram(ours._replace(tag=theirs.tag, chunks=[Abort((), True)]).encode(), path, 1.0)
    assert peers.server.closed


def test_the_association_ends_when_the_peer_stops_answering() -> None:
    peers = make_sctp_peers().establish()
    channel = peers.client.open_channel("test")
    peers.run(1.0)
    peers.network.right.rewrite = lambda packet: []
    began = peers.network.now
    peers.client.send(channel, "anybody?")
    assert peers.network.run(lambda: peers.client.closed, limit=100.0)
    assert 20.0 < peers.network.now - began < 40.0
    assert reasons(peers)[0] == [AssociationCloseReason.TIMEOUT]


def test_the_round_trip_of_an_idle_path_is_measured() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    before = len(peers.network.left.sent)
    peers.run(3.5 * HEARTBEAT_INTERVAL)
    kinds = [kind for packet in peers.network.left.sent[before:] for kind in chunks_of(packet)]
    assert sorted(kinds) == ["Heartbeat"] * 3 + ["HeartbeatAck"] * 3
    assert peers.client.association.rto.round_trip == pytest.approx(0.1)


def test_a_heartbeat_ack_without_a_heartbeat_is_not_measured() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    peers.network.right.rewrite = lambda datagram: [] if "HeartbeatAck" in chunks_of(datagram) else [datagram]
    peers.run(1.5 * HEARTBEAT_INTERVAL)
    assert any("Heartbeat" in chunks_of(packet) for packet in peers.network.left.sent)
    client, unexpected = peers.client.association, peers.client.association.counters.unexpected
    before = client.rto.round_trip
    packet = forge(peers.network.right, HeartbeatAck(b"\0\1\0\14" + bytes(8)))
    peers.client.receive_datagram(packet, peers.network.right.path, peers.network.now)
    assert client.rto.round_trip == before
    assert client.counters.unexpected == unexpected + 1


def test_a_heartbeat_ack_repeats_the_heartbeat_unless_it_exceeds_a_packet() -> None:
    peers = make_sctp_peers().establish()
    for value, answered in ((b"\0\1\0\7abc", True), (bytes(2000), False)):
        before = len(peers.network.right.sent)
        packet = forge(peers.network.left, Heartbeat(value))
        peers.server.receive_datagram(packet, peers.network.left.path, peers.network.now)
        peers.network.drain()
        answers = [SctpPacket.decode(sent).chunks for sent in peers.network.right.sent[before:]]
        assert answers == ([[HeartbeatAck(value)]] if answered else [])


@pytest.mark.parametrize(
    ("kind", "reported", "goes_on"),
    [(0x3F, False, False), (0x7F, True, False), (0xBF, False, True), (0xFF, True, True)],
)
def test_unknown_chunks_are_handled_by_the_highest_bits_of_their_type(kind: int, reported: bool, goes_on: bool) -> None:
    peers = make_sctp_peers().establish()
    before = len(peers.network.right.sent)
    packet = forge(peers.network.left, Unknown(kind, 0, b"new"), Heartbeat(b"\0\1\0\4"))
    peers.server.receive_datagram(packet, peers.network.left.path, peers.network.now)
    peers.network.drain()
    kinds = [name for sent in peers.network.right.sent[before:] for name in chunks_of(sent)]
    assert ("Error" in kinds, "HeartbeatAck" in kinds) == (reported, goes_on)


def test_queued_data_is_sent_before_shutdown_ack() -> None:
    """A side that receives SHUTDOWN still sends its data (RFC 9260 §9.2)."""
    peers = make_sctp_peers(impairment=Impairment(delay=0.05)).establish()
    channel = peers.server.open_channel("test")
    peers.run(1.0)
    for _ in range(20):
        peers.server.send(channel, bytes(5000))
    peers.client.close(peers.network.now)
    peers.run(5.0)
    assert len(messages(peers.network.left)) == 20
    assert closings(peers.network.left)
    assert closings(peers.network.right)


def test_the_reported_causes_of_an_abort_are_bounded() -> None:
    peers = make_sctp_peers().establish()
    abort = Abort(tuple(Parameter(13, b"") for _ in range(200)))
    peers.server.receive_datagram(forge(peers.network.left, abort), peers.network.left.path, peers.network.now)
    peers.network.drain()
    (closed,) = closings(peers.network.right)
    assert closed.reason is AssociationCloseReason.ABORT_RECEIVED
    assert len(closed.detail) < 200


def test_only_the_first_heartbeat_ack_measures_the_round_trip() -> None:
    """A duplicate would measure a longer round trip."""
    heartbeats = Heartbeats()
    sent = heartbeats.make(bytes(8), 1.0)
    assert heartbeats.answered(sent.value, 1.25) == 0.25
    assert heartbeats.answered(sent.value, 9.0) is None
