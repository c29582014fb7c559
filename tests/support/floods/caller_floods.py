"""Floods within one call: the most expensive inputs of each protocol, as endless iterators of datagrams.

Each flood takes a call and yields datagrams. It follows the state of the server, so that each datagram costs as much
as that state allows.
"""

import os
from collections.abc import Callable, Iterator
from itertools import count

from antiphon_transceiver.dtls.messages import Fragment, HandshakeType
from antiphon_transceiver.dtls.record import ContentType
from antiphon_transceiver.rtcp.feedback import MAX_STATUSES
from antiphon_transceiver.sctp.chunks import (
    Chunk,
    CookieEcho,
    Error,
    ForwardTsn,
    Heartbeat,
    Reconfig,
    Sack,
    Unknown,
)
from antiphon_transceiver.sctp.dcep import Open, PayloadProtocol
from antiphon_transceiver.sctp.parameters import OutgoingResetRequest, Parameter
from antiphon_transceiver.sctp.received_tsns import MAX_AHEAD
from support.floods.flooding_call import FloodingCall
from support.peers.dtls_datagrams import fill, handshake, record
from support.peers.rtcp_compounds import (
    NONE_RECEIVED,
    PACKET_SIZE,
    RUN_OF_ONE,
    SMALL,
    filled,
    nack,
    transport_feedback,
)

HELD = MAX_AHEAD - 2
"""Chunks behind a missing TSN: as many as an association accepts."""

RANGES = 250
CHUNKS = 58
"""DATA chunks of two bytes in one packet."""
ROUND = 40
"""Packets of one kind before the flood continues with the next kind."""

TINY = b'{"type":"a"}'
NESTED_EVENT = 60_000
"""Bytes of one event in many fragments."""
FRAGMENT = 1100


def chunks_over_held_fragments(call: FloodingCall) -> Iterator[bytes]:
    """Yield SCTP packets full of chunks while fragments, ranges and messages wait for a missing TSN."""
    while True:
        yield from _held_fragments(call)
        yield from _ranges(call)
        yield from _waiting_messages(call)
        yield from _other_chunks(call)


def _held_fragments(call: FloodingCall) -> Iterator[bytes]:
    """Yield first fragments of unordered messages behind a missing TSN, and FORWARD TSNs over them."""
    part = {"ending": False, "unordered": True}
    yield from call.sctp_packets(call.data(n, b"x", **part) for n in range(70, HELD))
    for _ in range(ROUND):
        yield call.sctp(ForwardTsn(call.next_tsn + n & 0xFFFFFFFF).encode() for n in range(63))
        yield call.sctp(call.data(HELD - n, b"x", **part).encode() for n in range(1, CHUNKS))
    yield _forward(call, HELD)


def _ranges(call: FloodingCall) -> Iterator[bytes]:
    """Yield every second fragment, then duplicates of these, then the fragments between."""
    part = {"ending": False, "unordered": True}
    yield from call.sctp_packets(call.data(2 * n, b"x", **part) for n in range(1, RANGES))
    for _ in range(ROUND):
        yield call.sctp(call.data(2 * n, b"x", **part).encode() for n in range(RANGES - CHUNKS, RANGES))
    yield call.sctp(call.data(2 * n + 1, b"x", **part).encode() for n in range(1, CHUNKS))
    yield _forward(call, 2 * RANGES)


def _waiting_messages(call: FloodingCall) -> Iterator[bytes]:
    """Yield ordered messages that are all delivered once the first one arrives. Lost ones are skipped."""
    first = call.next_ssn
    yield from call.sctp_packets(call.data(n, ssn=first + n & 0xFFFF) for n in range(1, HELD))
    yield call.sctp([call.data(0, ssn=first).encode()])
    call.next_ssn = first + HELD & 0xFFFF
    yield _forward(call, HELD, (call.events_channel, call.next_ssn - 1 & 0xFFFF))


def _other_chunks(call: FloodingCall) -> Iterator[bytes]:
    """Yield chunks that need a response, and DATA_CHANNEL_OPEN messages of new channels."""
    opened = Open("", "", True, None, None).encode()
    dcep = int(PayloadProtocol.DCEP)
    kinds: list[list[Chunk]] = [
        [Heartbeat(b"\0\1\0\x08abcd")] * 60,
        [Unknown(0xC1, 0, b"")] * 63,
        [Error((Parameter(1, b""),) * 4)] * 50,
        [CookieEcho(bytes(50))],
        [ForwardTsn(call.next_tsn - 1 & 0xFFFFFFFF, tuple((stream, 5) for stream in range(1, 250)))],
        [Reconfig((OutgoingResetRequest(n, 0, call.next_tsn, tuple(range(7, 400))).encode(),)) for n in range(1)],
    ]
    for number in range(ROUND):
        yield call.sctp(chunk.encode() for chunk in kinds[number % len(kinds)])
    for first in range(1, 200, 30):
        numbers = range(30)
        yield call.sctp(
            call.data(n, opened, stream=2 * (first + n), ssn=0, ppid=dcep, unordered=True).encode() for n in numbers
        )
        call.next_tsn = call.next_tsn + len(numbers) & 0xFFFFFFFF


def _forward(call: FloodingCall, chunks: int, *streams: tuple[int, int]) -> bytes:
    """Return a FORWARD TSN (RFC 3758) over the `chunks` sent last. `streams` are pairs of stream id and last SSN."""
    call.next_tsn = call.next_tsn + chunks & 0xFFFFFFFF
    return call.sctp([ForwardTsn(call.next_tsn - 1 & 0xFFFFFFFF, streams).encode()])


def sacks_over_outstanding_data(call: FloodingCall) -> Iterator[bytes]:
    """Yield SACKs with gap blocks over the server's outstanding data. From time to time one acknowledges all of it."""
    while True:
        for turn in range(ROUND):
            most = max(4, call.newest_tsn - call.acknowledged & 0xFFFF)
            every_second = tuple((2 * n + 2, 2 * n + 2) for n in range(min(250, most // 2)))
            window = 1 << 20
            yield call.sctp([Sack(call.acknowledged, window, every_second).encode()])
            yield call.sctp(Sack(call.acknowledged, window, ((2 + n % 2, 3), (most, most))).encode() for n in range(44))
            yield call.sctp([Sack(call.acknowledged, window, every_second[: turn % 40]).encode()] * 4)
        call.acknowledged = call.newest_tsn
        yield call.sctp([Sack(call.acknowledged, 1 << 20).encode()])


def rtcp_compounds(call: FloodingCall) -> Iterator[bytes]:
    """Yield transport-wide feedback of the largest size, with runs, vectors and deltas, and NACKs of every packet."""
    ssrc = call.server_ssrc
    for turn in count():
        base = call.transport_base - 256
        match turn % 5:
            case 0:
                compound = filled(transport_feedback(ssrc, base, MAX_STATUSES, NONE_RECEIVED))
            case 1:
                compound = transport_feedback(ssrc, base, 580, RUN_OF_ONE * 580)
            case 2:
                run = (0x2000 | MAX_STATUSES).to_bytes(2, "big")
                compound = transport_feedback(ssrc, base, MAX_STATUSES, run, bytes(MAX_STATUSES))
            case 3:
                compound = filled(transport_feedback(ssrc, base + 200, 1, SMALL, b"\1"))
            case _:
                compound = b"".join(nack(ssrc, call.server_sequence - 17 * n) for n in range(1, 65))
        yield call.rtcp(compound[:PACKET_SIZE])


def dtls_records(call: FloodingCall) -> Iterator[bytes]:
    """Yield, after the handshake, many records in one datagram, old handshake messages, and forged records."""
    hello = Fragment(HandshakeType.CLIENT_HELLO, 0, 0, 0, b"").encode()
    finished = Fragment(HandshakeType.FINISHED, 12, 4, 0, bytes(12)).encode()
    no_renegotiation = b"\1\x64"

    def protected(content_type: ContentType, content: bytes) -> bytes:
        return fill(lambda number: call.record(content_type, content), PACKET_SIZE)

    while True:
        yield protected(ContentType.APPLICATION_DATA, b"x")
        yield protected(ContentType.HANDSHAKE, hello)
        yield protected(ContentType.HANDSHAKE, hello * 8)
        yield protected(ContentType.HANDSHAKE, finished)
        yield protected(ContentType.ALERT, no_renegotiation)
        forged = os.urandom(24)
        yield fill(lambda n: record(23, forged, epoch=1, sequence=(1 << 40) + n), PACKET_SIZE)  # noqa: B023
        yield fill(lambda n: handshake(HandshakeType.CLIENT_HELLO, 5000, n % 8, n, b"x"), PACKET_SIZE)


def dtls_fragments() -> Iterator[bytes]:
    """Yield, during a handshake, fragments with gaps between them, many in one record and of many messages."""
    kinds = (HandshakeType.CERTIFICATE, HandshakeType.CLIENT_KEY_EXCHANGE, HandshakeType.CLIENT_HELLO)
    for turn in count():
        kind, start = kinds[turn % 3], turn * 60 % 12_000
        yield fill(lambda n: handshake(kind, 1 << 14, 1, start + 2 * n, b"x"), PACKET_SIZE)  # noqa: B023
        many = [Fragment(kind, 1 << 14, 1 + turn % 4, start + 3 * n, b"x").encode() for n in range(85)]
        yield record(ContentType.HANDSHAKE, b"".join(many))
        yield fill(lambda n: handshake(kind, 1 << 14, n % 8, n, b"x"), PACKET_SIZE)  # noqa: B023


def dtls_refused() -> Iterator[bytes]:
    """Yield, during a handshake, complete messages that are invalid, and unauthenticated alerts."""
    while True:
        yield handshake(HandshakeType.CERTIFICATE, 1, 1, 0, b"x")
        certificates = b"\0\x03\xa8" + bytes(3 * 312)
        yield handshake(HandshakeType.CERTIFICATE, len(certificates), 1, 0, certificates)
        yield fill(lambda n: record(ContentType.ALERT, b"\2\x28", sequence=100 + n), PACKET_SIZE)
        yield fill(lambda n: handshake(HandshakeType.FINISHED, 12, n % 8, 0, bytes(12)), PACKET_SIZE)


def tiny_events(call: FloodingCall) -> Iterator[bytes]:
    """Yield packets with as many events as fit."""
    while True:
        yield _events(call, [TINY] * 39)


def nested_events(call: FloodingCall) -> Iterator[bytes]:
    """Yield events nested as deeply as one packet allows, and fragmented events nested tens of thousands deep."""
    while True:
        for _ in range(ROUND):
            yield _events(call, [_nested(200)] * 5)
        event = _nested(NESTED_EVENT)
        pieces = [event[at : at + FRAGMENT] for at in range(0, len(event), FRAGMENT)]
        for number, piece in enumerate(pieces):
            yield call.sctp(
                [
                    call.data(
                        number, piece, beginning=number == 0, ending=number == len(pieces) - 1, unordered=True
                    ).encode()
                ]
            )
        yield _forward(call, len(pieces))


def _nested(size: int) -> bytes:
    depth = (size - 18) // 2
    return b'{"type":"a","a":' + b"[" * depth + b"]" * depth + b"}"


def _events(call: FloodingCall, events: list[bytes]) -> bytes:
    """Return a packet of unordered messages. It skips lost TSNs, so that no message waits for another."""
    skipped = ForwardTsn(call.next_tsn - 1 & 0xFFFFFFFF)
    chunks = [skipped.encode(), *(call.data(n, event, unordered=True).encode() for n, event in enumerate(events))]
    call.next_tsn = call.next_tsn + len(events) & 0xFFFFFFFF
    return call.sctp(chunks)


FLOODS: dict[str, Callable[[FloodingCall], Iterator[bytes]]] = {
    "sctp-fragments": chunks_over_held_fragments,
    "sctp-sacks": sacks_over_outstanding_data,
    "rtcp": rtcp_compounds,
    "dtls": dtls_records,
    "tiny-events": tiny_events,
    "nested-events": nested_events,
}
"""Floods of a connected call, by name."""
