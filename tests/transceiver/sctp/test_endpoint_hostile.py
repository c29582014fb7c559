"""Whatever bytes a peer sends: nothing is raised, and what is kept stays within its bounds."""

import contextlib
from collections.abc import Callable
from random import Random

import pytest

from antiphon_common.errors import LocalProtocolError
from antiphon_transceiver.sctp.association import SEND_BUFFER
from antiphon_transceiver.sctp.checksum import checksum
from antiphon_transceiver.sctp.inbound import MAX_HELD_BYTES
from antiphon_transceiver.sctp.reassembly import MAX_HELD
from support.impairment import Impairment
from support.mutation import mutations
from support.sctp_peers import make_sctp_peers

BAD = Impairment(loss=0.05, delay=0.01, reordering=0.2, duplication=0.1)


@pytest.mark.parametrize("seed", range(40))
def test_mutated_packets_are_dropped_or_understood_but_never_raise(seed: int) -> None:
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
            reassembler = association.inbound.reassembler
            assert 0 <= reassembler.size <= MAX_HELD_BYTES, f"seed {seed}"
            assert 0 <= reassembler.chunks <= MAX_HELD, f"seed {seed}"
            assert 0 <= association.outbound.buffered_bytes <= SEND_BUFFER, f"seed {seed}"


def adding_mutations(random: Random) -> Callable[[bytes], list[bytes]]:
    """Send broken copies after each packet, most of them with their header and a good checksum."""

    def rewrite(datagram: bytes) -> list[bytes]:
        copies = [datagram]
        for body in mutations(datagram[12:], random, 2):
            copies.append(with_checksum(datagram[:12] + body))
        copies += mutations(datagram, random, 1)
        return copies

    return rewrite


def with_checksum(packet: bytes) -> bytes:
    return packet[:8] + checksum(packet) + packet[12:]


def test_noise_is_counted() -> None:
    random = Random(1)
    peers = make_sctp_peers().establish()
    for size in range(200):
        noise = random.randbytes(size)
        peers.server.receive_datagram(noise, peers.network.left.path, 1.0)
        peers.server.receive_datagram(with_checksum(noise.ljust(12, b"\0")), peers.network.left.path, 1.0)
    counters = peers.server.association.counters
    assert counters.malformed + counters.unexpected == 400
    assert peers.established
