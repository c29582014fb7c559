"""DTLS endpoints between the flights of a handshake, and after it.

Before it is over, inputs are plain records, as anybody can send them in the peer's name; after it, contents of records
that the peer encrypts.
"""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from antiphon_transceiver.dtls import DtlsEndpoint, DtlsRole
from antiphon_transceiver.dtls.flights import MAX_AHEAD, MAX_PIECES
from antiphon_transceiver.dtls.handshake_layer import MAX_FRAGMENTS
from antiphon_transceiver.dtls.messages import Fragment, HandshakeType
from antiphon_transceiver.dtls.record import ContentType, RecordLayer, split_records
from cost.drive import drain
from cost.grammars import Fragments, Messages
from cost.search import Ready
from support.peers.dtls_pair import DtlsPeers, make_peers

FIRST_OF_PEER = {DtlsRole.CLIENT: HandshakeType.SERVER_HELLO, DtlsRole.SERVER: HandshakeType.CLIENT_HELLO}
LENGTH = 2000
"""Bytes in the length field of a message of which fragments are received."""

STEPS = {DtlsRole.CLIENT: (0, 2), DtlsRole.SERVER: (0, 1)}
"""Datagrams delivered before each flight of a side."""


def _between(role: DtlsRole, steps: int, *, pieces: bool) -> Callable[[], Ready]:
    def prepare() -> Ready:
        peers = make_peers()
        peers.client.start(0.0)
        peers.network.drain()
        for _ in range(steps):
            peers.network.step()
        endpoint, now = (peers.client if role is DtlsRole.CLIENT else peers.server), peers.network.now
        kind = FIRST_OF_PEER[role]
        if pieces:
            first = _next_sequence(endpoint)
            for sequence in range(first, first + MAX_AHEAD):
                held = _pieces(kind, sequence, range(1, 2 * MAX_PIECES - 2, 2))
                for start in range(0, len(held), MAX_FRAGMENTS):
                    endpoint.receive_datagram(_records(held[start : start + MAX_FRAGMENTS], in_one=True), None, now)
                    drain(endpoint, now)
            assert endpoint.handshake_layer.reassembler.held == MAX_AHEAD * (MAX_PIECES - 1), "bytes, each in its piece"

        def receive(data: bytes) -> None:
            endpoint.receive_datagram(data, None, now)
            drain(endpoint, now)

        return Ready(receive, [*_seeds(endpoint, kind), *_flights()], Fragments())

    return prepare


def _next_sequence(endpoint: DtlsEndpoint) -> int:
    return endpoint.handshake_layer.reassembler.next_sequence


def _pieces(kind: int, sequence: int, offsets: Sequence[int], size: int = 1) -> list[Fragment]:
    return [Fragment(kind, LENGTH, sequence, offset, bytes(size)) for offset in offsets]


def _records(fragments: Sequence[Fragment], *, in_one: bool = False) -> bytes:
    encoded = [fragment.encode() for fragment in fragments]
    layer = RecordLayer()
    if in_one:
        return layer.encode(ContentType.HANDSHAKE, 0, b"".join(encoded))
    return b"".join(layer.encode(ContentType.HANDSHAKE, 0, one) for one in encoded)


def _seeds(endpoint: DtlsEndpoint, kind: int) -> list[bytes]:
    first = _next_sequence(endpoint)
    return [
        _records(_pieces(kind, first, range(130, 174))),
        _records(_pieces(kind, first, range(46))),
        _records(_pieces(kind, first, range(1, 90)), in_one=True),
        _records(_pieces(kind, first, [7] * 90), in_one=True),
        _records(_pieces(kind, first + 1, range(1, 90)), in_one=True),
        _records([Fragment(kind, 0, first + turn, 0, b"") for turn in range(90)], in_one=True),
        _records([Fragment(kind, 1 + turn, first, 0, b"x") for turn in range(80)], in_one=True),
        _records(_pieces(kind, first, [0], 1000)),
        b"\x15\xfe\xfd\0\0\0\0\0\0\0\0\0\2\2\x28" * 80,
        b"\x14\xfe\xfd\0\0\0\0\0\0\0\0\0\1\1" * 80,
        b"\x16\xfe\xfd\0\0\0\0\0\0\0\0\0\0" * 92,
        b"\x16\xfe\xfd\0\1\0\0\0\0\0\0\0\0" * 92,
        b"\x17\xfe\xfd\0\1\0\0\0\0\0\0\0\x18" + bytes(0x18),
    ]


def _flights() -> list[bytes]:
    network = make_peers().shake_hands().network
    return [*network.left.sent, *network.right.sent]


def _connected(role: DtlsRole) -> Callable[[], Ready]:
    def prepare() -> Ready:
        peers: DtlsPeers = make_peers().shake_hands()
        pair: list[Any] = [peers.client, peers.server]
        endpoint, peer = pair if role is DtlsRole.CLIENT else pair[::-1]
        now = peers.network.now
        grammar = Messages()
        numbers = count(1000)

        def encrypt(data: bytes) -> bytes:
            peer.records.next_sequence[1] = next(numbers)
            kinds = (bytes(element) for element in grammar.split(data))
            records = [peer.records.encode(ContentType(20 + one[0] % 4), 1, one[3:]) for one in kinds]
            return b"".join(records)[:1200]

        def receive(data: bytes) -> None:
            endpoint.receive_datagram(data, None, now)
            drain(endpoint, now)

        hello = Fragment(HandshakeType.CLIENT_HELLO, 0, 0, 0, b"").encode()
        finished = Fragment(HandshakeType.FINISHED, 12, 4, 0, bytes(12)).encode()
        contents = [
            (3, b"x" * 1000),
            (3, b"x"),
            (3, b""),
            (2, hello),
            (2, finished),
            (1, b"\1\0"),
            (1, b"\2\x28"),
            (0, b"\1"),
        ]
        one = [bytes((kind,)) + len(content).to_bytes(2, "big") + content for kind, content in contents]
        seeds = [*one, *(each * 28 for each in one[1:]), one[3] * 10 + one[4] * 10]
        plain = [(13 + 1) * b"\x16" + b"\xff"]
        return Ready(receive, [*seeds, *plain], grammar, wrap=encrypt, limit=600)

    return prepare


def _connected_plain(role: DtlsRole) -> Callable[[], Ready]:
    def prepare() -> Ready:
        peers = make_peers().shake_hands()
        endpoint, now = (peers.client if role is DtlsRole.CLIENT else peers.server), peers.network.now

        def receive(data: bytes) -> None:
            endpoint.receive_datagram(data, None, now)
            drain(endpoint, now)

        seeds = [b"\x17\xfe\xfd\0\1\0\0\0\0\1%c\0\x18" % turn + bytes(0x18) for turn in range(8)]
        records = [next(split_records(seed)) for seed in seeds]
        assert len(records) == len(seeds)
        return Ready(receive, [*seeds, b"".join(seeds) * 4, *_seeds(endpoint, FIRST_OF_PEER[role])], Fragments())

    return prepare


STATES: dict[str, Callable[[], Ready]] = {}
for _role in DtlsRole:
    for _name, _steps in zip(("first flight", "second flight"), STEPS[_role], strict=True):
        STATES[f"{_role.name.lower()}, {_name}"] = _between(_role, _steps, pieces=False)
        STATES[f"{_role.name.lower()}, {_name}, pieces held"] = _between(_role, _steps, pieces=True)
    STATES[f"{_role.name.lower()}, connected"] = _connected(_role)
    STATES[f"{_role.name.lower()}, connected, forged records"] = _connected_plain(_role)
