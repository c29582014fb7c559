"""Windows, buffers and pacing of the sender."""

import pytest

from antiphon_transceiver.sctp import BufferedAmountLow, BufferFullError, MessageReceived
from antiphon_transceiver.sctp.association import MAX_BURST, MAX_QUEUED_MESSAGES, SEND_BUFFER
from antiphon_transceiver.sctp.chunks import Data, Sack
from antiphon_transceiver.sctp.data_receiver import RECEIVE_BUFFER
from antiphon_transceiver.sctp.endpoint import LOW_BUFFERED
from antiphon_transceiver.sctp.packet import SctpPacket
from antiphon_transceiver.sctp.rto import MAX_SACK_DELAY
from support.net.impairment import Impairment
from support.peers.sctp_pair import SctpPeers, chunks_of, closings, data_of, forge, last_data, make_sctp_peers, messages

FAR = Impairment(delay=0.05)


def open_channel(peers: SctpPeers) -> int:
    channel = peers.client.open_channel("test")
    peers.run(1.0)
    return channel


def last_sack(peers: SctpPeers) -> Sack:
    packets = (SctpPacket.decode(datagram) for datagram in reversed(peers.network.right.sent))
    return next(chunk for packet in packets for chunk in packet.chunks if isinstance(chunk, Sack))


def test_the_sender_stops_when_the_receiver_stops_reading() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers)
    reader = peers.network.right
    read_everything, reader.collect_events = reader.collect_events, lambda: None  # type: ignore[method-assign]
    sent = [bytes([number]) * 50_000 for number in range(20)]
    for message in sent:
        peers.client.send(channel, message)
    peers.run(20.0)
    inbound = peers.server.association.receiver
    assert last_sack(peers).a_rwnd < 50_000
    assert inbound.reassembler.size + inbound.a_rwnd <= RECEIVE_BUFFER
    assert peers.client.buffered(channel) > 400_000
    probes = len(peers.network.left.sent)
    peers.run(20.0)
    assert len(peers.network.left.sent) - probes <= 25  # about one a second
    assert not closings(peers.network.left)
    reader.collect_events = read_everything  # type: ignore[method-assign]
    peers.run(10.0)
    assert messages(reader) == sent
    assert peers.client.buffered(channel) == 0


def test_the_send_buffer_is_bounded_and_reports_when_there_is_room() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers)
    for _ in range(SEND_BUFFER // 65_536):
        peers.client.send(channel, bytes(65_536))
    assert peers.client.buffered(channel) == SEND_BUFFER
    with pytest.raises(BufferFullError):
        peers.client.send(channel, b"x")
    assert BufferedAmountLow(channel) not in peers.network.left.events
    assert peers.network.run(lambda: BufferedAmountLow(channel) in peers.network.left.events, limit=60.0)
    assert peers.client.buffered(channel) <= LOW_BUFFERED
    peers.client.send(channel, b"x")
    peers.run(5.0)
    assert peers.network.left.events.count(BufferedAmountLow(channel)) == 1
    assert len(messages(peers.network.right)) == SEND_BUFFER // 65_536 + 1


def test_short_messages_are_bounded_in_number() -> None:
    peers = make_sctp_peers()
    channel = peers.client.open_channel("test")
    for _ in range(MAX_QUEUED_MESSAGES - 1):  # OPEN is one as well
        peers.client.send(channel, b"x")
    with pytest.raises(BufferFullError):
        peers.client.send(channel, b"x")


def test_short_messages_share_packets() -> None:
    peers = make_sctp_peers().establish()
    channel = open_channel(peers)
    before = len(peers.network.left.sent)
    for number in range(100):
        peers.client.send(channel, str(number))
    peers.run(1.0)
    assert messages(peers.network.right) == [str(number) for number in range(100)]
    assert len(peers.network.left.sent) - before <= 3


def test_one_packet_is_acknowledged_with_delay_and_two_at_once() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers)
    peers.client.send(channel, "one")
    before = len(peers.network.right.sent)
    peers.run(0.05 + MAX_SACK_DELAY - 0.01)
    assert len(peers.network.right.sent) == before
    peers.run(0.02)
    assert [chunks_of(packet) for packet in peers.network.right.sent[before:]] == [["Sack"]]
    for text in ("two", "three"):
        peers.client.send(channel, text)
        peers.run(0.001)
    peers.run(0.05)
    assert len(peers.network.right.sent) == before + 2
    assert peers.client.association.sender.counters.retransmissions == 0


def test_a_sack_is_bundled_with_data() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers)
    peers.client.send(channel, "question")
    peers.network.run(lambda: "question" in messages(peers.network.right), limit=5.0)
    peers.server.send(channel, "answer")
    peers.run(0.01)
    assert chunks_of(peers.network.right.sent[-1]) == ["Sack", "Data"]


def test_the_i_bit_causes_a_sack_at_once() -> None:
    peers = make_sctp_peers().establish()
    open_channel(peers)
    last = last_data(peers.network.left)
    before = len(peers.network.right.sent)
    packet = forge(
        peers.network.left, Data(last.tsn + 1 & 0xFFFFFFFF, last.stream, last.ssn + 1, 51, b"now", immediate=True)
    )
    peers.server.receive_datagram(packet, peers.network.left.path, peers.network.now)
    peers.network.drain()
    assert [chunks_of(sent) for sent in peers.network.right.sent[before:]] == [["Sack"]]


def test_a_burst_is_limited_to_the_initial_cwnd() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers)
    before = len(peers.network.left.sent)
    peers.client.send(channel, bytes(262_144))
    peers.run(0.04)
    assert len(peers.network.left.sent) - before == MAX_BURST
    peers.run(10.0)
    assert messages(peers.network.right) == [bytes(262_144)]


def test_a_burst_of_short_messages_is_sent_at_once_within_its_limit() -> None:
    """Ten packets with ten messages each, made by several calls; cwnd would allow more."""
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers)
    for _ in range(10):
        peers.client.send(channel, bytes(100_000))
        peers.run(2.0)
    before, began = len(peers.network.left.sent), peers.network.now
    for _ in range(250):
        peers.client.send(channel, bytes(90))
    peers.network.run(limit=began)
    burst = peers.network.left.sent[before:]
    assert len(burst) == MAX_BURST
    assert all(len(data_of(packet)) == 10 for packet in burst)
    peers.run(1.0)
    assert len(messages(peers.network.right)) == 260


def test_a_lost_last_packet_is_retransmitted_after_a_round_trip_and_the_sack_delay() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers)
    for _ in range(20):
        peers.client.send(channel, bytes(2000))
        peers.run(0.3)
    peers.network.left.rewrite = lambda datagram: []
    peers.client.send(channel, "last")
    peers.run(0.1)
    began, peers.network.left.rewrite = peers.network.now - 0.1, lambda datagram: [datagram]
    assert peers.network.run(lambda: "last" in messages(peers.network.right), limit=began + 5.0)
    assert 0.3 < peers.network.now - began < 0.45


def test_a_lost_retransmission_is_detected_without_a_timeout() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers)
    times = iter(range(2))

    def rewrite(datagram: bytes) -> list[bytes]:
        lost = any(data.payload.startswith(b"x") for data in data_of(datagram))
        return [] if lost and next(times, None) is not None else [datagram]

    peers.network.left.rewrite = rewrite
    peers.client.send(channel, b"x")
    for number in range(40):
        peers.run(0.01)
        peers.client.send(channel, bytes([number]))
    peers.run(0.5)
    assert len(messages(peers.network.right)) == 41
    assert peers.client.association.sender.counters.timeouts == 0


def test_chunks_that_a_peer_reneges_on_are_retransmitted() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers)
    peers.network.left.rewrite = lambda datagram: []
    for number in range(3):
        peers.client.send(channel, bytes([number]))
        peers.run(0.01)
    acknowledged = last_sack(peers).cumulative_tsn
    for gaps in (((2, 3),), ()):
        packet = forge(peers.network.right, Sack(acknowledged, 10_000, gaps))
        peers.client.receive_datagram(packet, peers.network.right.path, peers.network.now)
    peers.network.left.rewrite = lambda datagram: [datagram]
    peers.run(5.0)
    assert messages(peers.network.right) == [bytes([number]) for number in range(3)]


def test_a_sack_of_tsns_never_sent_is_counted() -> None:
    peers = make_sctp_peers().establish()
    open_channel(peers)
    packet = forge(peers.network.right, Sack(last_sack(peers).cumulative_tsn + 5 & 0xFFFFFFFF, 10_000))
    peers.client.receive_datagram(packet, peers.network.right.path, peers.network.now)
    assert peers.client.association.counters.unexpected == 1


def test_data_beyond_a_rwnd_is_dropped_and_undeliverable_data_within_it_aborts() -> None:
    peers = make_sctp_peers().establish()
    open_channel(peers)
    tsn = last_data(peers.network.left).tsn
    path, inbound = peers.network.left.path, peers.server.association.receiver
    payload = bytes(1000)
    for number in range(2, 1000):  # a gap at 1, and chunks after it
        packet = forge(peers.network.left, Data(tsn + number & 0xFFFFFFFF, 0, number, 53, payload))
        peers.server.receive_datagram(packet, path, 2.0)
    assert inbound.reassembler.size <= RECEIVE_BUFFER
    assert inbound.counters.out_of_window > 400
    assert not peers.server.closed

    peers = make_sctp_peers().establish()
    open_channel(peers)
    tsn = last_data(peers.network.left).tsn
    for number in range(1, 1000):  # each waits for a message that was never sent
        packet = forge(peers.network.left, Data(tsn + number & 0xFFFFFFFF, 0, number + 5, 53, payload))
        peers.server.receive_datagram(packet, path, 2.0)
    assert peers.server.closed
    assert not any(isinstance(event, MessageReceived) for event in peers.network.right.events)


def test_an_overtaken_sack_does_not_set_peer_rwnd() -> None:
    """An old SACK with a_rwnd 0 would stop the sender until its zero window probe."""
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers)
    peers.client.send(channel, "one")
    peers.run(0.5)
    newest = last_sack(peers)
    peers.client.send(channel, "in flight")
    peers.run(0.001)
    overtaken = forge(peers.network.right, Sack(newest.cumulative_tsn - 1 & 0xFFFFFFFF, 0))
    peers.client.receive_datagram(overtaken, peers.network.right.path, peers.network.now)
    sent = len(peers.network.left.sent)
    peers.client.send(channel, "two")
    peers.run(0.01)
    assert [data.payload for packet in peers.network.left.sent[sent:] for data in data_of(packet)] == [b"two"]


def test_a_sack_with_a_rwnd_zero_stops_new_data() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers)
    peers.client.send(channel, "in flight")
    peers.run(0.001)
    acknowledged = last_sack(peers).cumulative_tsn
    peers.client.receive_datagram(
        forge(peers.network.right, Sack(acknowledged, 0)), peers.network.right.path, peers.network.now
    )
    sent = len(peers.network.left.sent)
    peers.client.send(channel, "two")
    peers.run(0.01)
    assert len(peers.network.left.sent) == sent


def test_a_rwnd_that_was_small_is_reported_when_the_receiver_reads_again() -> None:
    """A SACK reports it at once (RFC 9260 §6.2), so the sender waits for no timer. a_rwnd was never exactly 0."""
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers)
    reader = peers.network.right
    read_everything, reader.collect_events = reader.collect_events, lambda: None  # type: ignore[method-assign]
    for _ in range(10):
        peers.client.send(channel, bytes(50_000))
    peers.run(20.0)
    assert 0 < last_sack(peers).a_rwnd < 50_000
    sent = len(reader.sent)
    reader.collect_events = read_everything  # type: ignore[method-assign]
    peers.network.drain()
    peers.run(0.001)
    assert [chunks_of(packet) for packet in reader.sent[sent:]] == [["Sack"]]
    assert last_sack(peers).a_rwnd == RECEIVE_BUFFER


def test_no_sack_is_sent_when_the_receiver_reads_little() -> None:
    peers = make_sctp_peers(impairment=FAR).establish()
    channel = open_channel(peers)
    peers.client.send(channel, bytes(50_000))
    peers.run(2.0)
    sent = len(peers.network.right.sent)
    peers.run(2.0)
    assert len(peers.network.right.sent) == sent
