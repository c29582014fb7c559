"""Alerts and messages with a spoofed source before the peer is authenticated, and real failures of the peer."""

from collections.abc import Sequence

import pytest

from antiphon_transceiver.dtls import DtlsClosed, DtlsCloseReason, DtlsEndpoint, DtlsRole
from antiphon_transceiver.dtls.handshake_layer import FAILURE_DELAY
from antiphon_transceiver.dtls.messages import CertificateChain, ClientKeyExchange, HandshakeMessage, HandshakeType
from antiphon_transceiver.dtls.record import ContentType, RecordLayer
from antiphon_transceiver.srtp.profiles import SrtpProfile
from support.net.impairment import Impairment
from support.peers.certificates import certificate
from support.peers.dtls_pair import DtlsPeers, make_peers
from support.sim.memory_network import MemoryNetwork

OF_SERVER = (
    HandshakeType.SERVER_HELLO,
    HandshakeType.CERTIFICATE,
    HandshakeType.SERVER_KEY_EXCHANGE,
    HandshakeType.CERTIFICATE_REQUEST,
    HandshakeType.SERVER_HELLO_DONE,
)
OF_CLIENT = (
    HandshakeType.CLIENT_HELLO,
    HandshakeType.CERTIFICATE,
    HandshakeType.CLIENT_KEY_EXCHANGE,
    HandshakeType.CERTIFICATE_VERIFY,
)
ALERTS = [bytes((1, 0)), bytes((2, 0)), bytes((2, 40)), bytes((2, 255))]


def plain(content_type: ContentType, payload: bytes) -> bytes:
    return RecordLayer().encode(content_type, 0, payload)


def forged(message_type: HandshakeType, body: bytes) -> list[bytes]:
    """Return the message with each sequence number that may be expected."""
    messages = [HandshakeMessage(message_type, sequence, body) for sequence in range(5)]
    return [plain(ContentType.HANDSHAKE, message.encode()) for message in messages]


def fragments(length: int) -> list[bytes]:
    """Return the first byte of a message of `length`, with each sequence number that may be expected."""
    message = HandshakeMessage(HandshakeType.CERTIFICATE, 0, bytes(length))
    pieces = [message.fragment(0, 1)._replace(sequence=sequence) for sequence in range(5)]
    return [plain(ContentType.HANDSHAKE, piece.encode()) for piece in pieces]


def another_handshake(by: DtlsRole) -> list[bytes]:
    """Return what one side sent in another handshake with the same certificates."""
    network = make_peers(seed=1).shake_hands().network
    return network.left.sent[1:] if by is DtlsRole.CLIENT else network.right.sent


def check_survival(peers: DtlsPeers, victim: DtlsRole, nth: int, datagrams: Sequence[bytes]) -> None:
    """Inject datagrams before the peer's nth one, and check that the handshake completes within `FAILURE_DELAY`."""
    endpoint = peers.client if victim is DtlsRole.CLIENT else peers.server
    sender = peers.network.right if victim is DtlsRole.CLIENT else peers.network.left

    def interrupt(datagram: bytes) -> list[bytes]:
        if len(sender.sent) == nth:
            assert not endpoint.connected
            for stray in datagrams:
                endpoint.receive_datagram(stray, None, peers.network.now)
        return [datagram]

    sender.rewrite = interrupt
    peers.shake_hands(limit=FAILURE_DELAY)
    keys = {side.export_keying_material(b"x", 32) for side in (peers.client, peers.server)}
    assert len(keys) == 1


@pytest.mark.parametrize("nth", range(2))
@pytest.mark.parametrize("victim", DtlsRole)
@pytest.mark.parametrize("alert", ALERTS)
def test_a_spoofed_alert_does_not_end_a_handshake(alert: bytes, victim: DtlsRole, nth: int) -> None:
    peers = make_peers()
    check_survival(peers, victim, nth, [plain(ContentType.ALERT, alert)] * 3)
    endpoint = peers.client if victim is DtlsRole.CLIENT else peers.server
    assert endpoint.counters.deferred == 3
    peers.network.run(limit=10.0)
    assert peers.connected, "no failure is pending any more"


@pytest.mark.parametrize("nth", range(2))
@pytest.mark.parametrize(
    ("victim", "message_type"),
    [(DtlsRole.CLIENT, name) for name in OF_SERVER] + [(DtlsRole.SERVER, name) for name in OF_CLIENT],
)
@pytest.mark.parametrize("body", [b"", b"\0", bytes(70), bytes(3000)], ids=len)
def test_a_spoofed_message_does_not_end_a_handshake(
    victim: DtlsRole, message_type: HandshakeType, body: bytes, nth: int
) -> None:
    check_survival(make_peers(), victim, nth, forged(message_type, body))


@pytest.mark.parametrize("nth", range(2))
@pytest.mark.parametrize("victim", DtlsRole)
@pytest.mark.parametrize("length", [1, 2, 200, 1 << 14])
def test_a_spoofed_fragment_does_not_block_a_message(victim: DtlsRole, length: int, nth: int) -> None:
    check_survival(make_peers(), victim, nth, fragments(length))


@pytest.mark.parametrize("nth", range(2))
@pytest.mark.parametrize("mtu", [256, 1200])
def test_a_server_flight_of_another_handshake_does_not_end_a_handshake(nth: int, mtu: int) -> None:
    check_survival(make_peers(mtu=mtu), DtlsRole.CLIENT, nth, another_handshake(DtlsRole.SERVER))


@pytest.mark.parametrize("mtu", [256, 1200])
def test_a_client_flight_of_another_handshake_does_not_end_a_handshake(mtu: int) -> None:
    check_survival(make_peers(mtu=mtu), DtlsRole.SERVER, 1, another_handshake(DtlsRole.CLIENT))


def test_keys_from_spoofed_messages_are_discarded() -> None:
    """An off-path attacker agrees on keys with the server in place of the client, and sends alerts under them."""
    peers = make_peers()
    flight: list[bytes] = []

    def hold(datagram: bytes) -> list[bytes]:
        if not peers.network.left.sent:
            return [datagram]
        flight.append(datagram)
        return []

    peers.network.left.rewrite = hold
    peers.client.start(0.0)
    peers.network.run(lambda: bool(flight), limit=1.0)
    chain = CertificateChain((certificate("client").der,))
    for message in (
        HandshakeMessage(HandshakeType.CERTIFICATE, 1, chain.encode()),
        HandshakeMessage(HandshakeType.CLIENT_KEY_EXCHANGE, 2, ClientKeyExchange(bytes(range(32))).encode()),
    ):
        peers.server.receive_datagram(plain(ContentType.HANDSHAKE, message.encode()), None, 0.0)
    schedule = peers.server.handshake_layer.handshake.schedule
    assert schedule is not None
    attacker = RecordLayer()
    attacker.protect(*schedule.protections())
    alerts = [attacker.encode(ContentType.ALERT, 1, bytes((2, 40))) for _ in range(100)]
    peers.server.receive_datagram(alerts[-1], None, 0.0)  # its number is far ahead of the client's
    assert peers.server.counters.deferred == 1
    peers.network.left.rewrite = lambda datagram: [datagram]
    assert peers.network.run(lambda: peers.connected, limit=FAILURE_DELAY)


def test_a_flight_of_the_peer_cancels_the_pending_failure_even_if_the_next_one_is_slow() -> None:
    """A spoofed alert precedes the ClientHello, then the network is down for longer than `FAILURE_DELAY`."""
    peers = make_peers()
    peers.server.receive_datagram(plain(ContentType.ALERT, bytes((2, 40))), None, 0.0)
    assert peers.server.counters.deferred == 1
    peers.network.left.rewrite = lambda datagram: (
        [datagram] if not peers.network.left.sent or peers.network.now > 2 * FAILURE_DELAY else []
    )
    peers.shake_hands(limit=2.0)


@pytest.mark.parametrize("role", DtlsRole)
@pytest.mark.parametrize("nth", range(2))
def test_records_of_an_epoch_without_keys_are_dropped(role: DtlsRole, nth: int) -> None:
    """They never get keys, so they are not held (RFC 6347 §4.1)."""
    peers = make_peers()
    strays = [bytes((23, 0xFE, 0xFD, 0, 2, 0, 0, 0, 0, 0, number, 0, 32)) + bytes(32) for number in range(20)]
    check_survival(peers, role, nth, [b"".join(strays)])
    endpoint = peers.client if role is DtlsRole.CLIENT else peers.server
    assert (endpoint.counters.unexpected, endpoint.counters.early_dropped) == (20, 0)


@pytest.mark.parametrize("role", DtlsRole)
@pytest.mark.parametrize("lost", range(2))
def test_the_peer_receives_the_alert_of_a_real_failure_within_a_second(role: DtlsRole, lost: int) -> None:
    """One side expects another certificate. Its first alerts may be lost. The delay is 50 ms in each direction."""
    ours, theirs = certificate("client"), certificate("server")
    other = [certificate("other").fingerprint()]
    client = DtlsEndpoint(
        DtlsRole.CLIENT, ours, other if role is DtlsRole.CLIENT else [theirs.fingerprint()], list(SrtpProfile), bytes
    )
    server = DtlsEndpoint(
        DtlsRole.SERVER, theirs, other if role is DtlsRole.SERVER else [ours.fingerprint()], list(SrtpProfile), bytes
    )
    network = MemoryNetwork(client, server, Impairment(delay=0.05))
    failing, refused = (network.left, network.right) if role is DtlsRole.CLIENT else (network.right, network.left)
    alerts: list[bytes] = []

    def lose(datagram: bytes) -> list[bytes]:
        if datagram[0] == ContentType.ALERT:
            alerts.append(datagram)
        return [] if 0 < len(alerts) <= lost else [datagram]

    failing.rewrite = lose
    client.start(0.0)
    failed = client if role is DtlsRole.CLIENT else server
    assert network.run(lambda: failed.counters.deferred > 0, limit=1.0)
    assert network.run(lambda: bool(refused.events), limit=network.now + 1.0)
    assert [reason(event) for event in failing.events] == [DtlsCloseReason.CERTIFICATE_MISMATCH]
    assert [reason(event) for event in refused.events] == [DtlsCloseReason.ALERT_RECEIVED]


def reason(event: object) -> DtlsCloseReason:
    assert isinstance(event, DtlsClosed)
    return event.reason
