"""The cost of one datagram in each state of an endpoint, in calls and lines, which are the same on every machine."""

from collections.abc import Callable, Iterator

import pytest

from antiphon_transceiver.dtls import DtlsEndpoint, DtlsRole
from antiphon_transceiver.dtls.endpoint import MAX_RECORDS
from antiphon_transceiver.dtls.handshake_layer import MAX_FRAGMENTS, MAX_REJECTIONS
from antiphon_transceiver.dtls.messages import Fragment, HandshakeMessage, HandshakeType
from antiphon_transceiver.dtls.record import ContentType, RecordLayer
from support.peers.dtls_datagrams import DATAGRAM, fill, handshake, record
from support.peers.dtls_pair import make_peers
from support.sim.work_counter import Work, work_of

MAX_CALLS, MAX_LINES = 2000, 4500
"""Of one datagram in any state. The flights of a handshake cost 650 to 1030 calls and 960 to 1830 lines, without their
arithmetic in C."""

States = dict[str, Callable[[], DtlsEndpoint]]


def waiting(role: DtlsRole, flights: int) -> DtlsEndpoint:
    """Return an endpoint that has received this number of flights."""
    peers = make_peers()
    endpoint, sender = (
        (peers.client, peers.network.right) if role is DtlsRole.CLIENT else (peers.server, peers.network.left)
    )
    sender.rewrite = lambda datagram: [datagram] if len(sender.sent) < flights else []
    peers.client.start(0.0)
    peers.network.run(limit=0.05)
    assert not endpoint.connected
    return endpoint


def connected(role: DtlsRole) -> DtlsEndpoint:
    peers = make_peers().shake_hands()
    return peers.client if role is DtlsRole.CLIENT else peers.server


def closing() -> DtlsEndpoint:
    endpoint = connected(DtlsRole.SERVER)
    endpoint.close(1.0)
    return endpoint


STATES: States = {
    "server, new": lambda: waiting(DtlsRole.SERVER, 0),
    "server, flight sent": lambda: waiting(DtlsRole.SERVER, 1),
    "client, hello sent": lambda: waiting(DtlsRole.CLIENT, 0),
    "client, Finished sent": lambda: waiting(DtlsRole.CLIENT, 1),
    "server, connected": lambda: connected(DtlsRole.SERVER),
    "client, connected": lambda: connected(DtlsRole.CLIENT),
    "closing": closing,
}


TYPES = (
    HandshakeType.CLIENT_HELLO,
    HandshakeType.SERVER_HELLO,
    HandshakeType.CERTIFICATE,
    HandshakeType.FINISHED,
    HandshakeType.HELLO_REQUEST,
)


def datagrams() -> Iterator[bytes]:
    """Yield datagrams that are expensive in any state of an endpoint."""
    for content_type in (*ContentType, 0, 255):
        for epoch in (0, 1, 2):
            yield fill(lambda n, c=content_type, e=epoch: record(c, b"", epoch=e, sequence=n))  # type: ignore[misc]
            yield fill(lambda n, c=content_type, e=epoch: record(c, bytes(40), epoch=e, sequence=n))  # type: ignore[misc]
            yield fill(lambda n, c=content_type, e=epoch: record(c, b"\2\x28", epoch=e, sequence=n))  # type: ignore[misc]
    for message_type in TYPES:
        for sequence in range(4):
            empty = Fragment(message_type, 0, sequence, 0, b"").encode()
            yield record(ContentType.HANDSHAKE, empty * ((DATAGRAM - 13) // len(empty)))
            yield fill(lambda n, t=message_type, s=sequence: handshake(t, 0, s, 0, b""))  # type: ignore[misc]
            yield fill(lambda n, t=message_type, s=sequence: handshake(t, 5000, s, 2 * n, b"x"))  # type: ignore[misc]
            yield fill(lambda n, t=message_type, s=sequence: handshake(t, 100 + n, s, 7, b"x"))  # type: ignore[misc]
        yield fill(lambda n, t=message_type: handshake(t, 5000, n % 8, n, b"x"))  # type: ignore[misc]


@pytest.mark.parametrize("state", STATES)
def test_the_cost_of_a_datagram_is_bounded_by_that_of_a_few_flights(state: str) -> None:
    dearest = Work(0, 0)
    for datagram in datagrams():
        endpoint = STATES[state]()
        work = work_of(lambda endpoint=endpoint, datagram=datagram: endpoint.receive_datagram(datagram, None, 0.1))  # type: ignore[misc]
        dearest = max(dearest, work)
        assert work.calls <= MAX_CALLS, datagram[:60].hex(" ")
        assert work.lines <= MAX_LINES, datagram[:60].hex(" ")
        assert len(list(iter(endpoint.poll_transmit, None))) <= 4
    print("dearest", dearest)


@pytest.mark.parametrize("state", [name for name in STATES if "connected" not in name and name != "closing"])
@pytest.mark.parametrize("message_type", TYPES[:4])
@pytest.mark.parametrize("sequence", range(4))
def test_the_cost_of_a_fragment_does_not_grow_with_the_fragments_held(
    state: str, message_type: HandshakeType, sequence: int
) -> None:
    """63 fragments with gaps, then a datagram full of one-byte fragments. Joining each does not visit all of them."""
    endpoint = STATES[state]()
    for piece in range(63):
        endpoint.receive_datagram(handshake(message_type, 1 << 14, sequence, 200 * (piece + 1), bytes(100)), None, 0.01)
    endpoint.receive_datagram(handshake(message_type, 1 << 14, sequence, 0, bytes(100)), None, 0.01)
    for offset in (100, 150, 250, 0):
        more = [Fragment(message_type, 1 << 14, sequence, offset + n, b"x").encode() for n in range(92)]
        datagram = record(ContentType.HANDSHAKE, b"".join(more))
        work = work_of(lambda datagram=datagram: endpoint.receive_datagram(datagram, None, 0.02))  # type: ignore[misc]
        assert work.calls <= MAX_CALLS
        assert work.lines <= MAX_LINES


def last_piece(message_type: HandshakeType, sequence: int, body: bytes, endpoint: DtlsEndpoint) -> bytes:
    """Pass an endpoint all of a message but its end, and return the datagram with the end."""
    message = HandshakeMessage(message_type, sequence, body)
    for offset in range(0, len(body) - 1000, 1000):
        piece = message.fragment(offset, 1000).encode()
        endpoint.receive_datagram(RecordLayer().encode(ContentType.HANDSHAKE, 0, piece), None, 0.01)
    offset = (len(body) - 1) // 1000 * 1000
    return RecordLayer().encode(ContentType.HANDSHAKE, 0, message.fragment(offset, 1000).encode())


def hello(suites: int, extensions: int) -> bytes:
    head = b"\xfe\xfd" + bytes(32) + b"\0\0"
    block = b"".join(number.to_bytes(2, "big") + b"\0\0" for number in range(0x4000, 0x4000 + extensions))
    return head + (2 * suites).to_bytes(2, "big") + bytes(2 * suites) + b"\1\0" + len(block).to_bytes(2, "big") + block


LONG = {
    "thousands of extensions": (HandshakeType.CLIENT_HELLO, 0, hello(1, 4000)),
    "thousands of cipher suites": (HandshakeType.CLIENT_HELLO, 0, hello(8000, 1)),
    "thousands of certificates": (HandshakeType.CERTIFICATE, 1, b"\0\x3f\xf3" + bytes(3 * 5457)),
}


@pytest.mark.parametrize("kind", LONG)
def test_the_cost_of_completing_a_message_does_not_grow_with_its_length(kind: str) -> None:
    message_type, sequence, body = LONG[kind]
    endpoint = waiting(DtlsRole.SERVER, sequence)
    datagram = last_piece(message_type, sequence, body, endpoint)
    work = work_of(lambda: endpoint.receive_datagram(datagram, None, 0.02))
    assert endpoint.counters.deferred == 1, "it was whole, and refused"
    assert work.calls <= MAX_CALLS
    assert work.lines <= MAX_LINES


def test_at_most_one_message_of_a_datagram_is_rejected() -> None:
    endpoint = waiting(DtlsRole.SERVER, 1)
    endpoint.receive_datagram(fill(lambda n: handshake(HandshakeType.CERTIFICATE, 1, 1, 0, b"x")), None, 0.01)
    assert endpoint.counters.deferred == 1
    assert endpoint.counters.excessive > 0


def test_rejections_are_bounded_until_our_flight_is_retransmitted() -> None:
    """An invalid signature costs as much as a valid one, so only a few are verified."""
    endpoint = waiting(DtlsRole.SERVER, 1)
    wrong = handshake(HandshakeType.CERTIFICATE, 1, 1, 0, b"x")
    for sending in range(1, 3):
        for _ in range(100):
            endpoint.receive_datagram(wrong, None, 0.01 * sending)
        assert endpoint.counters.deferred == sending * MAX_REJECTIONS
        endpoint.handle_timeout(0.12 * sending)


def test_records_and_fragments_beyond_the_limits_are_counted() -> None:
    endpoint = connected(DtlsRole.CLIENT)
    endpoint.receive_datagram(fill(lambda n: record(ContentType.ALERT, b"", epoch=1, sequence=n + 100)), None, 0.1)
    assert endpoint.counters.unauthentic == MAX_RECORDS
    assert endpoint.counters.excessive == 1
    endpoint = waiting(DtlsRole.CLIENT, 0)
    many = Fragment(HandshakeType.SERVER_HELLO, 5000, 0, 0, b"x").encode() * (2 * MAX_FRAGMENTS)
    endpoint.receive_datagram(record(ContentType.HANDSHAKE, many), None, 0.1)
    assert endpoint.counters.excessive == 1
