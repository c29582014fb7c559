"""Alerts, and the end of an association."""

from math import inf

import pytest

from antiphon_common.errors import LocalProtocolError
from antiphon_transceiver.dtls import (
    AlertDescription,
    DtlsClosed,
    DtlsCloseReason,
    DtlsEndpoint,
    DtlsRole,
)
from antiphon_transceiver.dtls.messages import HandshakeMessage, HandshakeType
from antiphon_transceiver.dtls.record import ContentType, RecordLayer
from antiphon_transceiver.srtp.profiles import SrtpProfile
from support.peers.certificates import certificate
from support.peers.dtls_pair import DtlsPeers, end_of, make_peers
from support.sim.memory_network import MemoryNetwork


def last_event(events: list[object]) -> DtlsClosed:
    event = events[-1]
    assert isinstance(event, DtlsClosed)
    return event


@pytest.mark.parametrize("closing", ["client", "server"])
def test_close_notify_closes_both_sides(closing: str) -> None:
    client, server, network = make_peers().shake_hands()
    closer, other = (network.left, network.right) if closing == "client" else (network.right, network.left)
    (client if closing == "client" else server).close(network.now)
    network.run(limit=1.0)
    assert closer.events[-1] == DtlsClosed(DtlsCloseReason.LOCAL_CLOSE, None, "")
    assert other.events[-1] == DtlsClosed(DtlsCloseReason.CLOSE_NOTIFY, AlertDescription.CLOSE_NOTIFY, "")
    assert client.closed
    assert server.closed
    with pytest.raises(LocalProtocolError):
        client.send_application_data(b"late")


def test_closing_twice_and_using_a_closed_endpoint_has_no_effect() -> None:
    client = make_peers().client
    client.close(0.0)
    client.close(0.0)
    assert client.poll_timeout() == inf
    client.receive_datagram(b"\x16", None, 0.0)
    client.handle_timeout(100.0)
    assert client.poll_event() == DtlsClosed(DtlsCloseReason.LOCAL_CLOSE, None, "")
    assert client.poll_event() is None


@pytest.mark.parametrize("closing", ["client", "server"])
@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_lost_close_notify_is_retransmitted(closing: str, lost: int) -> None:
    client, server, network = make_peers().shake_hands()
    closer, station = (client, network.left) if closing == "client" else (server, network.right)
    sent: list[bytes] = []

    def lose(datagram: bytes) -> list[bytes]:
        sent.append(datagram)
        return [] if len(sent) <= lost else [datagram]

    station.rewrite = lose
    closed_at = network.now
    closer.close(closed_at)
    assert network.run(lambda: client.closed and server.closed, limit=closed_at + 1.0)
    network.run(limit=closed_at + 10.0)
    assert len(sent) == len(set(sent)) == lost + 1, "the other side's close_notify ends it"
    assert client.poll_timeout() == server.poll_timeout() == inf


def test_retransmission_of_the_close_alert_ends_within_a_second() -> None:
    client, _, network = make_peers().shake_hands()
    network.left.rewrite = lambda datagram: []
    client.close(10.0)
    times = []
    while (deadline := client.poll_timeout()) < inf:
        times.append(deadline - 10.0)
        client.handle_timeout(deadline)
    assert times == pytest.approx([0.1, 0.3, 0.7])
    assert len(list(iter(client.poll_transmit, None))) == 1 + len(times)


def test_a_lost_fatal_alert_is_retransmitted() -> None:
    ours, theirs = certificate("client"), certificate("server")
    client = DtlsEndpoint(DtlsRole.CLIENT, ours, [certificate("other").fingerprint()], list(SrtpProfile), bytes)
    server = DtlsEndpoint(DtlsRole.SERVER, theirs, [ours.fingerprint()], list(SrtpProfile), bytes)
    network = MemoryNetwork(client, server)
    network.left.rewrite = lambda datagram: [] if client.closed and network.now < 0.3 else [datagram]
    client.start(0.0)
    assert network.run(lambda: server.closed, limit=1.0)
    assert last_event([*network.right.events]).reason is DtlsCloseReason.ALERT_RECEIVED


@pytest.mark.parametrize("wrong", ["client", "server"])
def test_a_certificate_without_a_matching_fingerprint_ends_the_handshake(wrong: str) -> None:
    def endpoint(role: DtlsRole) -> DtlsEndpoint:
        peer = "server" if role is DtlsRole.CLIENT else "client"
        announced = certificate("other" if peer == wrong else peer)
        return DtlsEndpoint(role, certificate(role.value), [announced.fingerprint()], list(SrtpProfile), bytes)

    client, server = endpoint(DtlsRole.CLIENT), endpoint(DtlsRole.SERVER)
    network = MemoryNetwork(client, server)
    client.start(0.0)
    network.run(limit=1.0)
    checker, shower = (network.right, network.left) if wrong == "client" else (network.left, network.right)
    mismatch = last_event([*checker.events])
    assert (mismatch.reason, mismatch.alert) == (DtlsCloseReason.CERTIFICATE_MISMATCH, AlertDescription.BAD_CERTIFICATE)
    refused = last_event([*shower.events])
    assert (refused.reason, refused.alert) == (DtlsCloseReason.ALERT_RECEIVED, AlertDescription.BAD_CERTIFICATE)


def test_a_message_out_of_turn_ends_the_handshake() -> None:
    server = make_peers().server
    message = HandshakeMessage(HandshakeType.CLIENT_KEY_EXCHANGE, 0, b"\0")
    server.receive_datagram(RecordLayer().encode(ContentType.HANDSHAKE, 0, message.encode()), None, 0.0)
    closed = end_of(server)
    assert (closed.reason, closed.alert) == (DtlsCloseReason.ALERT_SENT, AlertDescription.UNEXPECTED_MESSAGE)
    assert "WAIT_CLIENT_HELLO" in closed.detail


SERVER_ONLY = (
    HandshakeType.HELLO_REQUEST,
    HandshakeType.HELLO_VERIFY_REQUEST,
    HandshakeType.SERVER_HELLO,
    HandshakeType.SERVER_KEY_EXCHANGE,
    HandshakeType.CERTIFICATE_REQUEST,
    HandshakeType.SERVER_HELLO_DONE,
)
CLIENT_ONLY = (HandshakeType.CLIENT_HELLO, HandshakeType.CLIENT_KEY_EXCHANGE, HandshakeType.CERTIFICATE_VERIFY)
UNASSIGNED = 99


@pytest.mark.parametrize("nth", range(3))
@pytest.mark.parametrize(
    ("victim", "impossible"),
    [(DtlsRole.CLIENT, (*CLIENT_ONLY, UNASSIGNED)), (DtlsRole.SERVER, (*SERVER_ONLY, UNASSIGNED))],
)
def test_messages_of_the_wrong_role_are_ignored(victim: DtlsRole, impossible: tuple[int, ...], nth: int) -> None:
    """They precede each flight, with the expected sequence numbers. None replaces the real message."""
    peers = make_peers()
    endpoint = peers.client if victim is DtlsRole.CLIENT else peers.server
    peers.client.start(0.0)
    for _ in range(nth):
        peers.network.drain()
        peers.network.step()
    assert not endpoint.connected
    for message_type in impossible:
        messages = [HandshakeMessage(message_type, sequence, b"\0") for sequence in range(8)]
        stray = b"".join(RecordLayer().encode(ContentType.HANDSHAKE, 0, message.encode()) for message in messages)
        endpoint.receive_datagram(stray, None, peers.network.now)
    assert endpoint.counters.impossible == 8 * len(impossible)
    assert peers.network.run(lambda: peers.connected, limit=0.05), "no flight had to be sent again"


def send_protected(peers: DtlsPeers, role: DtlsRole, content_type: ContentType, payload: bytes) -> None:
    """Let one side send a record that its public interface cannot send."""
    endpoint = peers.client if role is DtlsRole.CLIENT else peers.server
    record = endpoint.records.encode(content_type, 1, payload)
    other = peers.server if role is DtlsRole.CLIENT else peers.client
    other.receive_datagram(record, None, peers.network.now)


@pytest.mark.parametrize(
    ("role", "wish"), [(DtlsRole.CLIENT, HandshakeType.CLIENT_HELLO), (DtlsRole.SERVER, HandshakeType.HELLO_REQUEST)]
)
def test_renegotiation_is_refused_and_the_association_continues(role: DtlsRole, wish: HandshakeType) -> None:
    """The refusal is a warning, which must reach the peer and end nothing (RFC 5246 §7.2.2)."""
    peers = make_peers().shake_hands()
    answerer = peers.network.right if role is DtlsRole.CLIENT else peers.network.left
    before = len(answerer.sent)
    send_protected(peers, role, ContentType.HANDSHAKE, HandshakeMessage(wish, 0, b"").encode())
    peers.network.run(limit=1.0)
    assert len(answerer.sent) == before + 1
    assert peers.connected


@pytest.mark.parametrize(("alert", "ends"), [(bytes((2, 80)), True), (bytes((1, 90)), False), (b"\2", False)])
def test_only_fatal_alerts_end_an_association(alert: bytes, ends: bool) -> None:
    peers = make_peers().shake_hands()
    send_protected(peers, DtlsRole.SERVER, ContentType.ALERT, alert)
    assert peers.client.closed is ends


def test_an_unprotected_alert_is_accepted_only_before_the_handshake_is_complete() -> None:
    alert = RecordLayer().encode(ContentType.ALERT, 0, bytes((2, 40)))
    peers = make_peers().shake_hands()
    peers.client.receive_datagram(alert, None, 1.0)
    assert peers.client.connected
    fresh = make_peers().client
    fresh.start(0.0)
    fresh.receive_datagram(alert, None, 0.0)
    assert end_of(fresh) == DtlsClosed(DtlsCloseReason.ALERT_RECEIVED, 40, "alert 40 from the peer")
