"""Bytes that an attacker changed, replayed or forged."""

from random import Random

import pytest

from antiphon_transceiver.dtls import ApplicationDataReceived, DtlsEndpoint, HandshakeCompleted
from antiphon_transceiver.dtls.messages import Fragment, HandshakeType
from antiphon_transceiver.dtls.record import ContentType, split_records
from support.peers.dtls_pair import make_peers

POSITIONS = 40
"""Bytes changed in each handshake datagram, spread evenly."""


@pytest.mark.parametrize(("side", "nth"), [("left", 0), ("left", 1), ("right", 0), ("right", 1)])
def test_a_handshake_with_changed_bytes_never_completes_with_different_keys(side: str, nth: int) -> None:
    for step in range(POSITIONS):
        peers = make_peers(step)
        station = peers.network.left if side == "left" else peers.network.right

        def tamper(datagram: bytes, sent: list[bytes] = station.sent, step: int = step) -> list[bytes]:
            if len(sent) != nth:
                return [datagram]
            changed = bytearray(datagram)
            changed[step * len(changed) // POSITIONS] ^= 1 << step % 8
            return [bytes(changed)]

        station.rewrite = tamper
        peers.client.start(0.0)
        peers.network.run(limit=2.0)
        if peers.connected:
            keys = {endpoint.export_keying_material(b"x", 32) for endpoint in (peers.client, peers.server)}
            assert len(keys) == 1, f"byte {step}"
            hello_events = {event for event in peers.network.left.events if isinstance(event, HandshakeCompleted)}
            assert hello_events == set(peers.network.right.events), f"byte {step}"


def test_changed_and_replayed_data_is_dropped_and_counted() -> None:
    client, server, _ = make_peers().shake_hands()
    client.send_application_data(b"once")
    transmit = client.poll_transmit()
    assert transmit is not None
    for position in range(13, len(transmit.data)):
        changed = bytearray(transmit.data)
        changed[position] ^= 0x80
        server.receive_datagram(bytes(changed), None, 1.0)
    for _ in range(3):
        server.receive_datagram(transmit.data, None, 1.0)
    assert server.poll_event() == ApplicationDataReceived(b"once")
    assert server.poll_event() is None
    assert server.counters.unauthentic == len(transmit.data) - 13
    assert server.counters.replayed == 2


def test_a_reflected_record_is_not_authentic() -> None:
    client, _, _ = make_peers().shake_hands()
    client.send_application_data(b"mirror")
    transmit = client.poll_transmit()
    assert transmit is not None
    client.receive_datagram(transmit.data, None, 1.0)
    assert client.counters.unauthentic == 1


def test_a_replayed_handshake_is_not_answered() -> None:
    client, server, network = make_peers().shake_hands()
    for datagram in network.left.sent:
        server.receive_datagram(datagram, None, 1.0)
    for datagram in network.right.sent:
        client.receive_datagram(datagram, None, 1.0)
    assert server.poll_transmit() is client.poll_transmit() is None


def mutants(datagrams: list[bytes], random: Random) -> list[bytes]:
    """Return datagrams with changed, truncated or inserted bytes."""
    result = []
    for _ in range(2000):
        changed = bytearray(random.choice(datagrams))
        for _ in range(random.randrange(1, 6)):
            changed[random.randrange(len(changed))] = random.randrange(256)
        if random.random() < 0.3:
            del changed[random.randrange(1, len(changed)) :]
        if random.random() < 0.2:
            changed += random.randbytes(random.randrange(40))
        result.append(bytes(changed))
    return result


@pytest.mark.parametrize("seed", range(3))
def test_mutated_records_raise_no_exception(seed: int) -> None:
    random = Random(seed)
    network = make_peers(seed).shake_hands().network
    recorded = network.left.sent + network.right.sent

    def fresh() -> list[DtlsEndpoint]:
        peers = make_peers(seed)
        peers.client.start(0.0)
        connected = make_peers(seed).shake_hands()
        return [peers.client, peers.server, connected.client, connected.server]

    endpoints = fresh()
    for count, datagram in enumerate(mutants(recorded, random)):
        if count % 20 == 0:
            endpoints = fresh()
        for endpoint in endpoints:
            endpoint.receive_datagram(datagram, None, 0.0)
            assert sum(len(list(split_records(sent.data))) for sent in iter(endpoint.poll_transmit, None)) < 50


@pytest.mark.parametrize("seed", range(3))
def test_invalid_records_of_an_authenticated_peer_raise_no_exception(seed: int) -> None:
    random = Random(seed)
    for _ in range(20):
        client, server, _ = make_peers(seed).shake_hands()
        for _ in range(20):
            invalid = bytes((random.randrange(3),)) + random.randbytes(random.randrange(40))
            client.receive_datagram(server.records.encode(random.choice(list(ContentType)), 1, invalid), None, 0.0)


def test_invalid_records_that_arrive_before_the_keys_are_dropped() -> None:
    client, server, network = peers = make_peers()
    client.start(0.0)
    network.drain()
    flight: list[bytes] = []

    def hold(datagram: bytes) -> list[bytes]:
        flight.append(datagram)
        return []

    network.left.rewrite = hold
    network.run(lambda: bool(flight), limit=1.0)
    network.left.rewrite = lambda datagram: [datagram]
    server.receive_datagram(client.records.encode(ContentType.HANDSHAKE, 1, b"invalid"), None, 0.0)
    assert server.counters.malformed == 0
    server.receive_datagram(flight[0], None, 0.0)
    assert server.counters.malformed == 1
    network.run(lambda: peers.connected, limit=1.0)
    assert peers.connected


def test_several_renegotiation_requests_in_a_datagram_get_one_answer() -> None:
    client, server, _ = make_peers().shake_hands()
    hello_request = server.records.encode(ContentType.HANDSHAKE, 1, bytes(12) * 10)
    again = server.records.encode(ContentType.HANDSHAKE, 1, bytes(12))
    client.receive_datagram(hello_request + again, None, 1.0)
    assert len(list(iter(client.poll_transmit, None))) == 1


def test_several_finished_in_a_datagram_get_one_flight() -> None:
    client, server, _ = make_peers().shake_hands()
    finished = Fragment(HandshakeType.FINISHED, 12, 5, 0, bytes(12)).encode()
    again = [client.records.encode(ContentType.HANDSHAKE, 1, finished) for _ in range(5)]
    server.receive_datagram(b"".join(again), None, 1.0)
    assert server.counters.retransmissions == 1
    assert server.poll_transmit() is not None
    assert server.poll_transmit() is None


def test_a_renegotiation_request_is_answered_once() -> None:
    client, server, _ = make_peers().shake_hands()
    client.receive_datagram(server.records.encode(ContentType.HANDSHAKE, 1, bytes(12)), None, 1.0)
    assert client.poll_transmit() is not None
    server.send_application_data(b"data")
    transmit = server.poll_transmit()
    assert transmit is not None
    client.receive_datagram(transmit.data, None, 1.0)
    assert client.poll_event() == ApplicationDataReceived(b"data")
    assert client.poll_transmit() is None
