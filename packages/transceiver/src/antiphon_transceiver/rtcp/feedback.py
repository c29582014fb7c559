"""Transport-layer feedback (RFC 4585 §6.2): the generic NACK, and transport-wide feedback for congestion control
(draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1)."""

import struct
from collections.abc import Iterable, Sequence
from typing import ClassVar, Self

import msgspec

from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_common.wire import Reader, Writer

PACKET_TYPE = 205

DELTA_TICKS = 4000
"""Ticks of an arrival in a second: 250 µs each."""

REFERENCE_TICKS = 256
"""Ticks in one unit of the reference time, which is 64 ms."""

MAX_STATUSES = 1024
"""Packets one feedback tells of: 20 s of audio. Without a bound, a few bytes could tell of 65,535."""

MIN_DELTA, MAX_DELTA = -0x8000, 0x7FFF
"""Eight seconds either way."""

_NOT_RECEIVED, _SMALL_DELTA, _LARGE_DELTA = 0, 1, 2
_MAX_SMALL_DELTA = 255
_DELTA_FORMATS = {_NOT_RECEIVED: "", _SMALL_DELTA: "B", _LARGE_DELTA: "h"}
_HEAD = struct.Struct("!IIHHI")
_MAX_RUN = 0x1FFF
_ONE_BIT_SYMBOLS, _TWO_BIT_SYMBOLS = 14, 7


class GenericNack(msgspec.Struct, frozen=True):
    """Packets of `media_ssrc` that `sender_ssrc` misses, by their sequence numbers."""

    PACKET_TYPE: ClassVar[int] = PACKET_TYPE
    FORMAT: ClassVar[int] = 1

    sender_ssrc: int
    media_ssrc: int
    sequences: tuple[int, ...]

    def encode(self) -> bytes:
        writer = Writer()
        writer.push_uint32(self.sender_ssrc)
        writer.push_uint32(self.media_ssrc)
        for first, following in _group(self.sequences):
            writer.push_uint16(first)
            writer.push_uint16(following)
        return _frame(self.FORMAT, writer.getvalue())

    @classmethod
    def decode_body(cls, body: bytes) -> Self:
        reader = Reader(body)
        sender_ssrc, media_ssrc = reader.pull_uint32(), reader.pull_uint32()
        sequences: list[int] = []
        while reader.remaining:
            first, following = reader.pull_uint16(), reader.pull_uint16()
            sequences.append(first)
            sequences += (first + 1 + bit & 0xFFFF for bit in range(16) if following >> bit & 1)
        return cls(sender_ssrc, media_ssrc, tuple(sequences))


def _group(sequences: Iterable[int]) -> Iterable[tuple[int, int]]:
    """Yield a first packet and the bits of those among the sixteen after it; sequence numbers keep their order."""
    first, following, last = -1, 0, 0
    for sequence in sequences:
        offset = sequence - first & 0xFFFF
        if first >= 0 and last < offset <= 16:
            following |= 1 << offset - 1
            last = offset
        else:
            if first >= 0:
                yield first, following
            first, following, last = sequence, 0, 0
    if first >= 0:
        yield first, following


class TransportFeedback(msgspec.Struct, frozen=True):
    """When packets arrived, `base_sequence` and those after it.

    Each of `deltas` is the time since the arrival before it, in ticks of 250 µs, or None for a packet that did not
    arrive; the first counts from `reference_time`, 24 bits in units of 64 ms. `count` numbers the feedback packets.
    """

    PACKET_TYPE: ClassVar[int] = PACKET_TYPE
    FORMAT: ClassVar[int] = 15

    sender_ssrc: int
    media_ssrc: int
    base_sequence: int
    reference_time: int
    count: int
    deltas: tuple[int | None, ...]

    def encode(self) -> bytes:
        if not 0 < len(self.deltas) <= MAX_STATUSES:
            raise LocalProtocolError(f"a feedback cannot tell of {len(self.deltas)} packets")
        deltas = self.deltas
        times = self.reference_time << 8 | self.count
        head = _HEAD.pack(self.sender_ssrc, self.media_ssrc, self.base_sequence, len(deltas), times)
        symbols = [
            _NOT_RECEIVED if delta is None else _SMALL_DELTA if 0 <= delta <= _MAX_SMALL_DELTA else _LARGE_DELTA
            for delta in deltas
        ]
        chunks = list(_encode_chunks(symbols))
        sizes = "".join(_DELTA_FORMATS[symbol] for symbol in symbols)
        received = [delta for delta in deltas if delta is not None]
        body = head + struct.pack(f"!{len(chunks)}H{sizes}", *chunks, *received)
        return _frame(self.FORMAT, body + bytes(-len(body) % 4))

    @classmethod
    def decode_body(cls, body: bytes) -> Self:
        reader = Reader(body)
        sender_ssrc, media_ssrc, base_sequence, count, times = _HEAD.unpack(reader.pull_bytes(_HEAD.size))
        if not 0 < count <= MAX_STATUSES:
            raise DecodeError(f"feedback on {count} packets")
        symbols: list[int] = []
        while len(symbols) < count:
            symbols += _decode_chunk(reader.pull_uint16(), count - len(symbols))
        deltas = tuple(_pull_delta(reader, symbol) for symbol in symbols)
        return cls(sender_ssrc, media_ssrc, base_sequence, times >> 8, times & 0xFF, deltas)


def _encode_chunks(symbols: Sequence[int]) -> Iterable[int]:
    """Yield status chunks: runs where they are longer than what a vector holds, vectors of one or two bits else."""
    start, end = 0, len(symbols)
    while start < end:
        symbol = symbols[start]
        stop = start + 1
        while stop < end and symbols[stop] == symbol and stop - start < _MAX_RUN:
            stop += 1
        vector = symbols[start : start + _ONE_BIT_SYMBOLS]
        if stop == end or stop - start >= _ONE_BIT_SYMBOLS:
            yield symbol << 13 | stop - start
            start = stop
        elif _LARGE_DELTA not in vector:
            yield 0x8000 | sum(symbol << 13 - place for place, symbol in enumerate(vector))
            start += _ONE_BIT_SYMBOLS
        else:
            vector = vector[:_TWO_BIT_SYMBOLS]
            yield 0xC000 | sum(symbol << 12 - 2 * place for place, symbol in enumerate(vector))
            start += _TWO_BIT_SYMBOLS


def _decode_chunk(chunk: int, wanted: int) -> list[int]:
    """Return at most `wanted` symbols of a chunk."""
    if not chunk & 0x8000:
        return [chunk >> 13 & 3] * min(chunk & _MAX_RUN, wanted)
    if chunk & 0x4000:
        return [chunk >> 12 - 2 * place & 3 for place in range(min(_TWO_BIT_SYMBOLS, wanted))]
    return [chunk >> 13 - place & 1 for place in range(min(_ONE_BIT_SYMBOLS, wanted))]


def _pull_delta(reader: Reader, symbol: int) -> int | None:
    match symbol:
        case 0:
            return None
        case 1:
            return reader.pull_uint8()
        case 2:
            value = reader.pull_uint16()
            return value - (value >> 15 << 16)
        case _:
            raise DecodeError("a reserved packet status")


def _frame(feedback_format: int, body: bytes) -> bytes:
    return struct.pack("!BBH", 0x80 | feedback_format, PACKET_TYPE, len(body) // 4) + body


Feedback = GenericNack | TransportFeedback


def decode_feedback(feedback_format: int, body: bytes) -> Feedback | None:
    """Return the feedback in the body of a packet of type 205, or None for a format that we do not know."""
    if feedback_format == GenericNack.FORMAT:
        return GenericNack.decode_body(body)
    if feedback_format == TransportFeedback.FORMAT:
        return TransportFeedback.decode_body(body)
    return None
