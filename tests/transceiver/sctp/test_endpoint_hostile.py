"""Arbitrary bytes of a peer raise no exception, and held state stays within its bounds."""

import contextlib
from collections.abc import Callable
from random import Random

import pytest

from antiphon_common.errors import LocalProtocolError
from antiphon_transceiver.sctp.association import SEND_BUFFER
from antiphon_transceiver.sctp.checksum import checksum
from antiphon_transceiver.sctp.chunks import Data, ForwardTsn, Init, Reconfig, Sack
from antiphon_transceiver.sctp.data_receiver import MAX_HELD_BYTES
from antiphon_transceiver.sctp.dcep import PayloadProtocol
from antiphon_transceiver.sctp.packet import SctpPacket
from antiphon_transceiver.sctp.parameters import (
    OutgoingResetRequest,
    ParameterType,
    ReconfigResponse,
    ReconfigResult,
)
from antiphon_transceiver.sctp.reassembly import MAX_HELD, MAX_PARTIAL
from support.floods.mutation import mutations
from support.net.impairment import Impairment
from support.peers.sctp_pair import SctpPeers, forge, last_data, make_sctp_peers, messages

BAD = Impairment(loss=0.05, delay=0.01, reordering=0.2, duplication=0.1)


@pytest.mark.parametrize("seed", range(40))
def test_mutated_packets_raise_no_exception(seed: int) -> None:
    random = Random(seed)
    peers = make_sctp_peers(seed, BAD)
    peers.network.left.rewrite = adding_mutations(random)
    channel = peers.client.open_channel("test", ordered=seed % 2 == 0, max_retransmits=(None, 0, 2)[seed % 3])
    back = peers.server.open_channel("back")
    peers.client.start(0.0)
    peers.server.start(0.0)
    for _ in range(20):
        for endpoint, number in ((peers.client, channel), (peers.server, back)):
            with contextlib.suppress(LocalProtocolError):  # a mutation may well have closed it
                endpoint.send(number, random.randbytes(random.choice([1, 100, 1200, 5000])))
        peers.run(0.1)
        for endpoint in (peers.client, peers.server):
            association = endpoint.association
            reassembler = association.receiver.reassembler
            assert 0 <= reassembler.size <= MAX_HELD_BYTES, f"seed {seed}"
            assert 0 <= reassembler.chunks <= MAX_HELD, f"seed {seed}"
            assert 0 <= association.sender.buffered_bytes <= SEND_BUFFER, f"seed {seed}"


def adding_mutations(random: Random) -> Callable[[bytes], list[bytes]]:
    """Send mutated copies after each packet, most of them with a correct header and checksum."""

    def rewrite(datagram: bytes) -> list[bytes]:
        copies = [datagram]
        for body in mutations(datagram[12:], random, 2):
            copies.append(with_checksum(datagram[:12] + body))
        copies += mutations(datagram, random, 1)
        return copies

    return rewrite


def with_checksum(packet: bytes) -> bytes:
    return packet[:8] + checksum(packet) + packet[12:]


def test_random_bytes_are_counted() -> None:
    random = Random(1)
    peers = make_sctp_peers().establish()
    for size in range(200):
        noise = random.randbytes(size)
        peers.server.receive_datagram(noise, peers.network.left.path, 1.0)
        peers.server.receive_datagram(with_checksum(noise.ljust(12, b"\0")), peers.network.left.path, 1.0)
    counters = peers.server.association.counters
    assert counters.malformed + counters.unexpected == 400
    assert peers.established


@pytest.mark.parametrize("back", [1, 2, 4, 100, 32767])
def test_a_forward_tsn_with_an_old_ssn_does_not_move_a_stream_back(back: int) -> None:
    """The skipped SSN (RFC 3758 §3.6) is lower than those received. A stream that moves back waits for them again."""
    peers = make_sctp_peers().establish()
    channel = peers.client.open_channel("test")
    for number in range(4):
        peers.client.send(channel, str(number))
    peers.run(1.0)
    last = last_data(peers.network.left)
    forward = ForwardTsn(last.tsn + 1 & 0xFFFFFFFF, ((channel, last.ssn - back & 0xFFFF),))
    following = Data(last.tsn + 2 & 0xFFFFFFFF, channel, last.ssn + 1, PayloadProtocol.STRING, b"next")
    for chunk in (forward, following):
        peers.server.receive_datagram(forge(peers.network.left, chunk), peers.network.left.path, peers.network.now)
    peers.network.drain()
    assert messages(peers.network.right) == ["0", "1", "2", "3", "next"]


def test_a_forward_tsn_skips_the_missing_message_of_a_stream() -> None:
    peers = make_sctp_peers().establish()
    channel = peers.client.open_channel("test")
    peers.run(1.0)
    last = last_data(peers.network.left)
    waiting = Data(last.tsn + 3 & 0xFFFFFFFF, channel, last.ssn + 3, PayloadProtocol.STRING, b"waits")
    forward = ForwardTsn(last.tsn + 2 & 0xFFFFFFFF, ((channel, last.ssn + 2), (60000, 1)))
    for chunk in (waiting, forward):
        peers.server.receive_datagram(forge(peers.network.left, chunk), peers.network.left.path, peers.network.now)
    peers.network.drain()
    assert messages(peers.network.right) == ["waits"]


def test_partial_messages_are_bounded_in_number() -> None:
    """First fragments of one byte: each takes an object in memory, and one byte of a_rwnd."""
    peers = make_sctp_peers().establish()
    channel = peers.client.open_channel("test")
    peers.run(1.0)
    last, server = last_data(peers.network.left), peers.server
    for start in range(1, 1001, 50):
        fragments = [
            Data(last.tsn + n & 0xFFFFFFFF, channel, n, PayloadProtocol.STRING, b"x", True, False)
            for n in range(start, start + 50)
        ]
        server.receive_datagram(forge(peers.network.left, *fragments), peers.network.left.path, peers.network.now)
        assert server.association.receiver.reassembler.chunks <= MAX_PARTIAL
    assert server.closed  # the chunk that all others wait for does not fit, and only the peer could make room


def test_a_stream_that_is_reset_while_its_data_is_missing_is_reset_later() -> None:
    """RFC 6525 §5.2.2 E2: the last TSN of the request was not received yet."""
    peers = make_sctp_peers().establish()
    channel = peers.client.open_channel("test")
    peers.run(1.0)
    last = last_data(peers.network.left)
    request = OutgoingResetRequest(first_request(peers), 0, last.tsn + 1 & 0xFFFFFFFF, (channel,))
    missing = Data(last.tsn + 1 & 0xFFFFFFFF, channel, last.ssn + 1, PayloadProtocol.STRING, b"late")
    for chunk in (Reconfig((request.encode(),)), missing):
        peers.server.receive_datagram(forge(peers.network.left, chunk), peers.network.left.path, peers.network.now)
        peers.network.drain()
    assert messages(peers.network.right) == ["late"]
    again = forge(peers.network.left, Reconfig((request.encode(),)))
    peers.server.receive_datagram(again, peers.network.left.path, peers.network.now)
    peers.server.handle_timeout(peers.network.now)
    peers.run(1.0)
    assert results(peers)[:2] == [ReconfigResult.IN_PROGRESS, ReconfigResult.PERFORMED]


@pytest.mark.parametrize("ahead", [1, 2, 1000, -2])
def test_a_reset_request_out_of_sequence_resets_nothing(ahead: int) -> None:
    """RFC 6525 §5.2.1."""
    peers = make_sctp_peers().establish()
    channel = peers.client.open_channel("test")
    peers.run(1.0)
    last = last_data(peers.network.left)
    request = OutgoingResetRequest(first_request(peers) + ahead & 0xFFFFFFFF, 0, last.tsn, (channel,))
    datagram = forge(peers.network.left, Reconfig((request.encode(),)))
    peers.server.receive_datagram(datagram, peers.network.left.path, peers.network.now)
    peers.client.send(channel, "still open")
    peers.run(1.0)
    assert results(peers) == [ReconfigResult.BAD_SEQUENCE_NUMBER]
    assert messages(peers.network.right) == ["still open"]


def test_no_more_than_two_parameters_of_a_re_config_are_handled() -> None:
    """RFC 6525 §3.1 allows no more, and each may cause an answer."""
    peers = make_sctp_peers().establish()
    channel = peers.client.open_channel("test")
    peers.run(1.0)
    last = last_data(peers.network.left)
    requests = [
        OutgoingResetRequest(first_request(peers) + number & 0xFFFFFFFF, 0, last.tsn, (channel,)) for number in range(5)
    ]
    datagram = forge(peers.network.left, Reconfig(tuple(request.encode() for request in requests)))
    peers.server.receive_datagram(datagram, peers.network.left.path, peers.network.now)
    peers.network.drain()
    assert len(results(peers)) == 2


def first_request(peers: SctpPeers) -> int:
    """Return the sequence number of the first reset request of the client (RFC 6525 §5.1.1)."""
    sent = [chunk for datagram in peers.network.left.sent for chunk in SctpPacket.decode(datagram).chunks]
    return next(chunk for chunk in sent if isinstance(chunk, Init)).initial_tsn


def results(peers: SctpPeers) -> list[int]:
    """Return the results of the server's responses to reset requests."""
    sent = [chunk for datagram in peers.network.right.sent for chunk in SctpPacket.decode(datagram).chunks]
    parameters = [parameter for chunk in sent if isinstance(chunk, Reconfig) for parameter in chunk.parameters]
    responses = [parameter for parameter in parameters if parameter.type == ParameterType.RECONFIG_RESPONSE]
    return [ReconfigResponse.decode(response.value).result for response in responses]


@pytest.mark.parametrize("seed", range(20))
def test_a_peer_with_false_gap_ack_blocks_receives_all_data(seed: int) -> None:
    """SACKs acknowledge lost chunks, renege on them and acknowledge them again, over a path that loses packets."""
    print("seed", seed)
    random = Random(seed)
    peers = make_sctp_peers(seed, Impairment(loss=0.1, delay=0.02, reordering=0.1)).establish()
    channel = peers.client.open_channel("test")
    peers.run(2.0)
    peers.network.right.rewrite = false_gap_blocks(random)
    sent = [str(number) * random.choice([1, 10, 500]) for number in range(300)]
    for text in sent:
        peers.client.send(channel, text)
        if random.random() < 0.2:
            peers.run(0.01)
    peers.run(5.0)
    peers.network.right.rewrite = lambda datagram: [datagram]
    outbound = peers.client.association.sender
    assert peers.network.run(lambda: outbound.idle, limit=peers.network.now + 60.0)
    assert messages(peers.network.right) == sent
    assert (outbound.buffered_bytes, peers.client.buffered(channel)) == (0, 0)


def false_gap_blocks(random: Random) -> Callable[[bytes], list[bytes]]:
    """Replace the gap ack blocks of SACKs."""

    def rewrite(datagram: bytes) -> list[bytes]:
        packet = SctpPacket.decode(datagram)
        changed = [false_sack(chunk, random) if isinstance(chunk, Sack) else chunk for chunk in packet.chunks]
        return [packet._replace(chunks=changed).encode()]

    return rewrite


def false_sack(sack: Sack, random: Random) -> Sack:
    edges = sorted(random.sample(range(2, 60), 2 * random.randrange(4)))
    return Sack(sack.cumulative_tsn, sack.a_rwnd, tuple(zip(edges[::2], edges[1::2], strict=True)))
