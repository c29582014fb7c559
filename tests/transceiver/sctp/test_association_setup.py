"""The setup of an association: from one side, from both, and with lost packets."""

from collections.abc import Callable
from functools import partial
from math import inf

import pytest

from antiphon_transceiver.sctp import AssociationClosed, AssociationCloseReason, DataChannelEvent
from antiphon_transceiver.sctp.chunks import Abort, CookieEcho, Error, Init, InitAck, ShutdownAck, ShutdownComplete
from antiphon_transceiver.sctp.lifecycle import SETUP_DEADLINE
from antiphon_transceiver.sctp.packet import SctpPacket
from antiphon_transceiver.sctp.parameters import Cause, Parameter, ParameterType
from antiphon_transceiver.sctp.rto import INITIAL_RTO
from support.net.impairment import Impairment
from support.peers.sctp_pair import SctpPeers, chunks_of, closings, forge, make_sctp_peers, messages
from support.sim.memory_network import Station

FAR = Impairment(delay=0.05)


def has_messages(station: Station[DataChannelEvent]) -> bool:
    return bool(messages(station))


def exchange(peers: SctpPeers) -> None:
    """Send a message in each direction and check that it is received."""
    for sender, receiver in ((peers.client, peers.network.right), (peers.server, peers.network.left)):
        sender.send(sender.open_channel("test"), "hello")
        assert peers.network.run(partial(has_messages, receiver), limit=60.0)


def test_one_side_sends_init() -> None:
    peers = make_sctp_peers(impairment=FAR)
    peers.client.start(0.0)
    assert peers.network.run(lambda: peers.established, limit=1.0)
    assert [chunks_of(packet) for packet in peers.network.left.sent] == [["Init"], ["CookieEcho"]]
    assert [chunks_of(packet) for packet in peers.network.right.sent] == [["InitAck"], ["CookieAck"]]
    exchange(peers)


def test_both_sides_send_init_at_once() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    assert peers.network.now == pytest.approx(0.15)
    exchange(peers)


def test_one_side_sends_init_while_that_of_the_other_is_in_flight() -> None:
    for behind in (0.01, 0.049, 0.06, 0.11, 0.16):
        peers = make_sctp_peers(impairment=FAR)
        peers.client.start(0.0)
        peers.network.run(limit=behind)
        peers.server.start(behind)
        peers.network.run(limit=1.0)
        assert peers.established, behind
        exchange(peers)


def test_the_first_message_is_sent_with_cookie_echo() -> None:
    peers = make_sctp_peers(impairment=FAR)
    peers.client.send(peers.client.open_channel("first"), "hello")
    peers.client.start(0.0)
    assert peers.network.run(lambda: messages(peers.network.right) == ["hello"], limit=1.0)
    assert peers.network.now == pytest.approx(0.15)


@pytest.mark.parametrize("both", [True, False], ids=["both begin", "one begins"])
@pytest.mark.parametrize("lost", range(6))
def test_a_lost_packet_of_the_setup_is_retransmitted_after_a_timeout(both: bool, lost: int) -> None:
    peers = make_sctp_peers(impairment=FAR)
    rewrite = drop_numbered(lost)
    peers.network.left.rewrite = peers.network.right.rewrite = rewrite
    peers.client.send(peers.client.open_channel("test"), "hello")
    peers.client.start(0.0)
    if both:
        peers.server.start(0.0)
    assert peers.network.run(lambda: peers.established and bool(messages(peers.network.right)), limit=10.0)
    assert peers.network.now <= 0.2 + 2 * INITIAL_RTO
    exchange_back = peers.server.open_channel("back")
    peers.server.send(exchange_back, "hello")
    assert peers.network.run(lambda: messages(peers.network.left) == ["hello"], limit=peers.network.now + 1)


def drop_numbered(lost: int) -> Callable[[bytes], list[bytes]]:
    """Lose one packet, counted over both directions."""
    count = iter(range(1000))
    return lambda packet: [] if next(count) == lost else [packet]


def test_a_known_round_trip_shortens_the_first_timeout() -> None:
    peers = make_sctp_peers(impairment=FAR)
    peers.network.left.rewrite = drop_numbered(0)
    peers.client.start(0.0, 0.1)
    assert peers.network.run(lambda: peers.established, limit=2.0)
    assert peers.network.now < 0.2 + INITIAL_RTO


def test_setup_without_a_peer_times_out() -> None:
    peers = make_sctp_peers(impairment=Impairment(loss=1.0))
    peers.client.start(0.0)
    peers.network.run(lambda: bool(peers.network.left.events), limit=100.0)
    assert peers.network.now == SETUP_DEADLINE
    (closed,) = closings(peers.network.left)
    assert closed.reason is AssociationCloseReason.TIMEOUT
    assert peers.client.poll_timeout() == inf


def test_a_stale_cookie_is_answered_by_another_init() -> None:
    peers = make_sctp_peers(impairment=FAR)
    peers.network.right.rewrite = lambda packet: [packet] if chunks_of(packet) != ["CookieAck"] else []
    peers.client.start(0.0)
    peers.network.run(lambda: len(peers.network.left.sent) == 2, limit=1.0)
    peers.network.right.rewrite = lambda packet: [packet]
    stale = forge(peers.network.right, Error((Parameter(Cause.STALE_COOKIE, bytes(4)),)))
    peers.client.receive_datagram(stale, peers.network.right.path, peers.network.now)
    peers.network.drain()
    assert [chunks_of(packet) for packet in peers.network.left.sent[2:]] == [["Init"]]
    assert peers.network.run(lambda: peers.established, limit=2.0)
    exchange(peers)


def test_a_late_duplicate_init_changes_nothing_and_a_restart_is_refused() -> None:
    peers = make_sctp_peers().establish()
    exchange(peers)
    peers.server.receive_datagram(peers.network.left.sent[0], peers.network.left.path, peers.network.now)
    peers.network.drain()
    assert chunks_of(peers.network.right.sent[-1]) == ["InitAck"]
    before = len(peers.network.right.sent)
    restart = SctpPacket(5000, 5000, 0, [Init(12345, 65536, 10, 10, 1)]).encode()
    peers.server.receive_datagram(restart, peers.network.left.path, peers.network.now)
    peers.network.drain()
    assert len(peers.network.right.sent) == before
    assert peers.server.association.counters.unexpected == 1
    channel = peers.client.open_channel("after")
    peers.client.send(channel, "still here")
    assert peers.network.run(lambda: "still here" in messages(peers.network.right), limit=peers.network.now + 1)


def test_chunks_after_init_in_a_packet_are_dropped() -> None:
    """INIT has verification tag 0. Other chunks need the tag, which an off-path attacker lacks (RFC 9260 §8.5.1)."""
    peers = make_sctp_peers().establish()
    for behind in (Abort(()), ShutdownAck(), ShutdownComplete()):
        packet = SctpPacket(5000, 5000, 0, [Init(12345, 65536, 10, 10, 1), behind]).encode()
        peers.server.receive_datagram(packet, peers.network.left.path, peers.network.now)
    peers.network.drain()
    assert peers.established
    assert peers.server.association.counters.unexpected == 3
    exchange(peers)


def test_a_cookie_of_another_peer_is_not_acknowledged_once_established() -> None:
    """Its INIT was answered before. RFC 9260 §5.2.4 D requires the tag of the peer."""
    peers = make_sctp_peers()
    early = SctpPacket(5000, 5000, 0, [Init(12345, 65536, 10, 10, 1)]).encode()
    peers.server.receive_datagram(early, peers.network.left.path, 0.0)
    transmit = peers.server.poll_transmit()
    assert transmit is not None
    (answer,) = SctpPacket.decode(transmit.data).chunks
    assert isinstance(answer, InitAck)
    cookie = answer.parameter(ParameterType.STATE_COOKIE)
    assert cookie is not None
    peers.establish()
    before = len(peers.network.right.sent)
    echo = forge(peers.network.left, CookieEcho(cookie))
    peers.server.receive_datagram(echo, peers.network.left.path, peers.network.now)
    peers.network.drain()
    assert len(peers.network.right.sent) == before
    assert peers.server.association.counters.unexpected == 1
    exchange(peers)


def test_packets_of_another_association_are_dropped() -> None:
    peers = make_sctp_peers().establish()
    exchange(peers)
    packet = SctpPacket.decode(peers.network.left.sent[-1])
    for foreign in (
        packet._replace(tag=packet.tag ^ 1),
        packet._replace(source_port=1),
        packet._replace(destination_port=1),
    ):
        peers.server.receive_datagram(foreign.encode(), peers.network.left.path, peers.network.now)
    assert peers.server.association.counters.unexpected == 3


def test_the_same_entropy_gives_the_same_bytes() -> None:
    sent = []
    for _ in range(2):
        peers = make_sctp_peers(7, Impairment(loss=0.1, delay=0.01)).establish()
        peers.client.send(peers.client.open_channel("test"), bytes(50_000))
        peers.run(5.0)
        peers.client.close(peers.network.now)
        peers.run(5.0)
        assert peers.network.left.events[-1] == AssociationClosed(AssociationCloseReason.LOCAL_CLOSE, "")
        sent.append((peers.network.left.sent, peers.network.right.sent))
    assert sent[0] == sent[1]
