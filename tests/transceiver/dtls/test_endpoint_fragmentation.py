"""Handshakes with fragmented messages, in any order."""

import itertools
import json
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest

from antiphon_common.wire import Reader
from antiphon_transceiver.dtls import CipherSuite
from antiphon_transceiver.dtls.messages import Fragment, HandshakeMessage, HandshakeType, ServerHello
from antiphon_transceiver.dtls.record import ContentType, RecordLayer, split_records
from support.net.impairment import Impairment
from support.peers.dtls_pair import make_peers

Item = TypeVar("Item")


@pytest.mark.parametrize("mtu", [256, 400, 576, 1200])
def test_flights_fit_the_mtu(mtu: int) -> None:
    network = make_peers(impairment=Impairment(mtu=mtu), mtu=mtu).shake_hands().network
    assert network.left.link.too_long == network.right.link.too_long == 0


def cut_client_hello(datagram: bytes, sizes: list[int]) -> list[bytes]:
    """Cut the ClientHello in `datagram` into one record for each size, and the rest into a last one."""
    (record,) = split_records(datagram)
    whole = Fragment.pull(Reader(record.payload))
    message = HandshakeMessage(whole.type, whole.sequence, whole.data)
    layer = RecordLayer()
    offsets = list(itertools.accumulate(sizes, initial=0))
    pieces = [message.fragment(offset, size) for offset, size in zip(offsets, [*sizes, len(whole.data)], strict=True)]
    return [layer.encode(ContentType.HANDSHAKE, 0, piece.encode()) for piece in pieces]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("one_datagram", [False, True])
def test_a_fragmented_client_hello_is_reassembled(order: tuple[int, ...], one_datagram: bool) -> None:
    peers = make_peers()

    def rewrite(datagram: bytes) -> list[bytes]:
        peers.network.left.rewrite = lambda later: [later]
        pieces = cut_client_hello(datagram, [1, 40])
        shuffled = [pieces[i] for i in order]
        return [b"".join(shuffled)] if one_datagram else [shuffled[0], *shuffled]

    peers.network.left.rewrite = rewrite
    peers.shake_hands()
    assert peers.server.counters.malformed == 0


@pytest.mark.parametrize("seed", range(30))
def test_overlapping_fragments_of_a_client_hello_are_reassembled(seed: int) -> None:
    """Overlapping fragments in any order, several per record and several records per datagram."""
    peers = make_peers(seed)
    random = Random(seed)

    def rewrite(datagram: bytes) -> list[bytes]:
        peers.network.left.rewrite = lambda later: [later]
        return scattered_client_hello(datagram, random)

    peers.network.left.rewrite = rewrite
    peers.shake_hands()
    assert peers.server.counters.malformed == peers.server.counters.retransmissions == 0, f"seed {seed}"


def scattered_client_hello(datagram: bytes, random: Random) -> list[bytes]:
    (record,) = split_records(datagram)
    whole = Fragment.pull(Reader(record.payload))
    message, end = HandshakeMessage(whole.type, whole.sequence, whole.data), len(whole.data)
    cuts = sorted({0, end, *random.sample(range(end), random.randrange(1, 8))})
    pieces = [message.fragment(start, stop - start) for start, stop in itertools.pairwise(cuts)]
    again = random.sample(range(end), len(pieces))
    pieces += [message.fragment(start, random.randrange(1, end - start + 1)) for start in again[::2]]
    pieces += random.sample(pieces, len(pieces) // 2)
    random.shuffle(pieces)
    layer = RecordLayer()
    payloads = [b"".join(piece.encode() for piece in group) for group in gathered(pieces, random)]
    records = [layer.encode(ContentType.HANDSHAKE, 0, payload) for payload in payloads]
    return [b"".join(group) for group in gathered(records, random)]


def gathered(items: list[Item], random: Random) -> list[list[Item]]:
    """Return items in their order, in groups of one to three."""
    groups = []
    while items:
        size = random.randrange(1, 4)
        groups.append(items[:size])
        items = items[size:]
    return groups


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (1, 1, 0, 0)])
def test_a_client_hello_in_two_datagrams_is_answered_in_one(order: tuple[int, ...]) -> None:
    vector = json.loads((Path(__file__).parents[2] / "vectors" / "dtls_client_hello_chromium_156.json").read_text())
    datagrams = [bytes.fromhex(datagram) for datagram in vector["datagrams"]]
    assert [len(datagram) for datagram in datagrams] == [1200, 263]
    server = make_peers().server
    for index in order:
        server.receive_datagram(datagrams[index], None, 0.0)
    transmit = server.poll_transmit()
    assert transmit is not None
    assert server.poll_transmit() is None
    fragments = [Fragment.pull(Reader(record.payload)) for record in split_records(transmit.data)]
    hello = ServerHello.decode(fragments[0].data)
    assert (hello.version, hello.cipher_suite) == (0xFEFD, CipherSuite.ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)
    assert [fragment.type for fragment in fragments[1:]] == [
        HandshakeType.CERTIFICATE,
        HandshakeType.SERVER_KEY_EXCHANGE,
        HandshakeType.CERTIFICATE_REQUEST,
        HandshakeType.SERVER_HELLO_DONE,
    ]


def test_several_fragments_share_one_record() -> None:
    peers = make_peers(mtu=256)

    def merge(datagram: bytes) -> list[bytes]:
        records = list(split_records(datagram))
        if any(record.epoch or record.content_type != ContentType.HANDSHAKE for record in records):
            return [datagram]
        payload = b"".join(record.payload for record in records)
        head = records[0]
        number = head.epoch.to_bytes(2, "big") + head.sequence.to_bytes(6, "big")
        return [bytes((ContentType.HANDSHAKE, 0xFE, 0xFD)) + number + len(payload).to_bytes(2, "big") + payload]

    peers.network.left.rewrite = peers.network.right.rewrite = merge
    peers.shake_hands()


@pytest.mark.parametrize("seed", range(20))
def test_datagrams_in_any_order_complete_the_handshake_without_retransmission(seed: int) -> None:
    bad_order = Impairment(reordering=0.7, duplication=0.3, delay=0.001, held_back=0.01)
    client, server, _ = make_peers(seed, bad_order, mtu=256).shake_hands()
    assert client.counters.retransmissions == server.counters.retransmissions == 0, f"seed {seed}"


def test_finished_and_data_that_arrive_before_their_flight_are_held() -> None:
    peers = make_peers()
    flight: list[bytes] = []

    def hold(datagram: bytes) -> list[bytes]:
        flight.extend(split_into_datagrams(datagram))
        return []

    peers.client.start(0.0)
    peers.network.drain()
    peers.network.left.rewrite = hold
    peers.network.run(lambda: bool(flight), limit=1.0)
    peers.network.left.rewrite = lambda datagram: [datagram]
    for datagram in reversed(flight):
        peers.server.receive_datagram(datagram, None, peers.network.now)
    assert peers.server.connected


def split_into_datagrams(datagram: bytes) -> list[bytes]:
    """Return each record of a datagram as a separate datagram."""
    sizes = [13 + len(record.payload) for record in split_records(datagram)]
    offsets = itertools.accumulate(sizes, initial=0)
    return [datagram[offset : offset + size] for offset, size in zip(offsets, sizes, strict=False)]


def test_application_data_before_finished_is_delivered_after_it() -> None:
    client, server, network = peers = make_peers()
    network.right.rewrite = lambda datagram: [datagram] if not server.connected else []
    client.start(0.0)
    network.run(lambda: server.connected, limit=1.0)
    assert not client.connected
    server.send_application_data(b"early")
    transmit = server.poll_transmit()
    assert transmit is not None
    client.receive_datagram(transmit.data, None, network.now)
    network.drain()
    assert network.left.events == []
    network.right.rewrite = lambda datagram: [datagram]
    assert network.run(lambda: peers.connected, limit=2.0)
    assert [type(event).__name__ for event in network.left.events] == ["HandshakeCompleted", "ApplicationDataReceived"]


def test_a_flood_of_early_records_is_bounded() -> None:
    server = make_peers().server
    random = Random(1)
    for sequence in range(100):
        number = (1).to_bytes(2, "big") + sequence.to_bytes(6, "big")
        server.receive_datagram(b"\x16\xfe\xfd" + number + (40).to_bytes(2, "big") + random.randbytes(40), None, 0.0)
    assert server.counters.early_dropped == 100 - 16
