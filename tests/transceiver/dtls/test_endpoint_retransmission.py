"""Lost flights, and a peer that does not answer."""

from math import inf

import pytest

from antiphon_transceiver.dtls import DtlsClosed, DtlsCloseReason, DtlsEndpoint
from support.net.impairment import Impairment
from support.peers.dtls_pair import make_peers

DELAY = Impairment(delay=0.025)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("nth", [0, 1])
def test_any_lost_flight_is_retransmitted(side: str, nth: int) -> None:
    peers = make_peers(0, DELAY)
    station = peers.network.left if side == "left" else peers.network.right
    offered: list[bytes] = []

    def lose_one(datagram: bytes) -> list[bytes]:
        offered.append(datagram)
        return [] if len(offered) == nth + 1 else [datagram]

    station.rewrite = lose_one
    peers.shake_hands()
    assert len(offered) > 2
    assert peers.network.now < 0.4


def timeouts(endpoint: DtlsEndpoint) -> list[float]:
    """Fire the endpoint's timers until it fails. Return the times in seconds at which it sent a datagram."""
    sent = []
    while (deadline := endpoint.poll_timeout()) < inf:
        endpoint.handle_timeout(deadline)
        while endpoint.poll_transmit() is not None:
            sent.append(round(deadline, 3))
    return sent


def test_a_client_without_a_server_doubles_its_timeout_and_gives_up_after_30_seconds() -> None:
    client = make_peers().client
    client.start(0.0)
    while client.poll_transmit() is not None:
        pass
    sent = timeouts(client)
    assert sent[:6] == [0.1, 0.3, 0.7, 1.5, 2.5, 3.5]
    assert 29.0 < sent[-1] < 30.0
    assert client.poll_event() == DtlsClosed(DtlsCloseReason.TIMEOUT, None, "no handshake in state WAIT_SERVER_HELLO")
    assert client.poll_timeout() == inf


def test_a_server_without_a_client_gives_up_after_30_seconds() -> None:
    server = make_peers().server
    server.start(5.0)
    assert server.poll_timeout() == 35.0
    server.handle_timeout(34.9)
    assert server.poll_event() is None
    server.handle_timeout(35.0)
    event = server.poll_event()
    assert isinstance(event, DtlsClosed)
    assert event.reason is DtlsCloseReason.TIMEOUT


def test_an_early_timeout_does_nothing() -> None:
    client = make_peers().client
    client.start(0.0)
    client.poll_transmit()
    client.handle_timeout(0.05)
    assert client.poll_transmit() is None


def test_the_round_trip_is_measured_and_no_timer_runs_after_the_handshake() -> None:
    client, server, network = make_peers(0, DELAY).shake_hands()
    assert client.round_trip == pytest.approx(0.05)
    assert server.round_trip == pytest.approx(0.05)
    assert client.poll_timeout() == server.poll_timeout() == inf
    assert network.now == pytest.approx(0.1)


def test_the_last_flight_is_retransmitted_for_each_datagram_with_finished() -> None:
    client, server, network = peers = make_peers(0, DELAY)
    network.right.rewrite = lambda datagram: [] if server.connected else [datagram]
    client.start(0.0)
    network.run(lambda: server.connected, limit=1.0)
    before = server.counters.retransmissions
    network.run(limit=network.now + 0.9)
    assert not client.connected
    assert server.counters.retransmissions - before == client.counters.retransmissions == 3
    network.right.rewrite = lambda datagram: [datagram]
    assert network.run(lambda: peers.connected, limit=3.0)


def test_application_data_causes_no_retransmission_of_the_last_flight() -> None:
    """Only a retransmitted Finished shows that the last flight was lost (RFC 6347 §4.2.4)."""
    client, server, network = peers = make_peers(0, DELAY)
    network.right.rewrite = lambda datagram: [] if server.connected else [datagram]
    client.start(0.0)
    network.run(lambda: server.counters.retransmissions > 0, limit=2.0)
    network.right.rewrite = lambda datagram: [datagram]
    assert network.run(lambda: peers.connected, limit=4.0)
    network.run(limit=network.now + 1.0)
    before = server.counters.retransmissions
    for _ in range(5):
        client.send_application_data(b"data")
    network.run(limit=network.now + 1.0)
    assert server.counters.retransmissions == before
