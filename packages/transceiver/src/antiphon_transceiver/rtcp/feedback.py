"""Transport-layer feedback (RFC 4585 §6.2): the generic NACK, and transport-wide feedback for congestion control
(draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1)."""

import struct
from collections.abc import Iterable, Sequence
from typing import ClassVar, Self

import msgspec

from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_common.wire import Writer

PACKET_TYPE = 205

DELTA_TICKS = 4000
"""Ticks in a second, the unit of arrival times and deltas: 250 µs each."""

REFERENCE_TICKS = 256
"""Ticks in one unit of the reference time: 64 ms."""

MAX_STATUSES = 1024
"""Largest number of packets in one feedback: 20 s of audio. Without it, a few bytes could report 65,535 packets."""

MAX_SEQUENCES = 64
"""Packets of a NACK that are read, from its beginning: as many as a `RetransmissionBuffer` stores."""

MIN_DELTA, MAX_DELTA = -0x8000, 0x7FFF
"""Range of a delta in ticks: eight seconds in either direction."""

_NOT_RECEIVED, _SMALL_DELTA, _LARGE_DELTA = 0, 1, 2
_MAX_SMALL_DELTA = 255
_DELTA_FORMATS = {_NOT_RECEIVED: "", _SMALL_DELTA: "B", _LARGE_DELTA: "h"}
_HEAD = struct.Struct("!IIHHI")
_MAX_RUN = 0x1FFF
_ONE_BIT_SYMBOLS, _TWO_BIT_SYMBOLS = 14, 7
_ONE_BIT_SHIFTS, _TWO_BIT_SHIFTS = range(13, -1, -1), range(12, -1, -2)
_CHUNK = struct.Struct("!H")
_SOURCES = struct.Struct("!II")
_LOST_PACKETS = struct.Struct("!HH")


class GenericNack(msgspec.Struct, frozen=True):
    """A generic NACK (RFC 4585 §6.2.1): `sender_ssrc` requests packets of `media_ssrc` by their sequence numbers.

    A receiver sends it at once when packets are missing. `RtpSender` answers it with retransmissions.
    """

    PACKET_TYPE: ClassVar[int] = PACKET_TYPE
    FORMAT: ClassVar[int] = 1

    sender_ssrc: int
    media_ssrc: int
    sequences: tuple[int, ...]

    def encode(self) -> bytes:
        """Return the RTCP packet."""
        writer = Writer()
        writer.push_uint32(self.sender_ssrc)
        writer.push_uint32(self.media_ssrc)
        for first, following in _group(self.sequences):
            writer.push_uint16(first)
            writer.push_uint16(following)
        return _frame(self.FORMAT, writer.getvalue())

    @classmethod
    def decode_body(cls, body: bytes) -> Self:
        """Return the NACK with its first `MAX_SEQUENCES` packets.

        Raises DecodeError for a body that is cut short, or is not a whole number of words.
        """
        if len(body) < 8 or len(body) % 4:
            raise DecodeError("a NACK of the wrong length")
        sender_ssrc, media_ssrc = _SOURCES.unpack_from(body)
        sequences: list[int] = []
        # Each word contains one packet at least.
        for first, following in _LOST_PACKETS.iter_unpack(body[8 : 8 + 4 * MAX_SEQUENCES]):
            sequences += [first + bit & 0xFFFF for bit in range(17) if not bit or following >> bit - 1 & 1]
            if len(sequences) >= MAX_SEQUENCES:
                break
        return cls(sender_ssrc, media_ssrc, tuple(sequences[:MAX_SEQUENCES]))


def _group(sequences: Iterable[int]) -> Iterable[tuple[int, int]]:
    """Yield each PID with its bitmask of the sixteen packets after it. Sequence numbers keep their order."""
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
    """Transport-wide feedback: when each packet from `base_sequence` on arrived. A receiver sends it every 100 ms.

    `deltas` has one entry for each packet: the time since the arrival before it in ticks of 250 µs, or None if the
    packet did not arrive. The first is relative to `reference_time`, 24 bits in units of 64 ms. `count` numbers the
    feedback packets.
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
        """Return the RTCP packet. Raises LocalProtocolError for no deltas, or more than `MAX_STATUSES`."""
        if not 0 < len(self.deltas) <= MAX_STATUSES:
            raise LocalProtocolError(f"a feedback cannot report {len(self.deltas)} packets")
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
        """Return the feedback. Raises DecodeError for a body that is cut short or reports too many packets."""
        if len(body) < _HEAD.size:
            raise DecodeError("feedback cut short")
        sender_ssrc, media_ssrc, base_sequence, count, times = _HEAD.unpack_from(body)
        if not 0 < count <= MAX_STATUSES:
            raise DecodeError(f"feedback on {count} packets")
        runs, position = _decode_runs(body, count)
        deltas = tuple(_decode_deltas(body, position, runs))
        return cls(sender_ssrc, media_ssrc, base_sequence, times >> 8, times & 0xFF, deltas)

    @staticmethod
    def count_statuses(body: bytes) -> int:
        """Return how many packets a body reports, without decoding it."""
        return int.from_bytes(body[10:12], "big")


def _encode_chunks(symbols: Sequence[int]) -> Iterable[int]:
    """Yield the status chunks: a run length chunk for a long run, otherwise a vector of one-bit or two-bit symbols."""
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


def _decode_runs(body: bytes, count: int) -> tuple[list[tuple[int, int]], int]:
    """Return the statuses of `count` packets as symbols with run lengths, and where the deltas begin."""
    runs: list[tuple[int, int]] = []
    position, missing = _HEAD.size, count
    for (chunk,) in _CHUNK.iter_unpack(body[position : len(body) // 2 * 2]):
        position += 2
        if not chunk & 0x8000:
            run = chunk & _MAX_RUN
            runs.append((chunk >> 13 & 3, run if run < missing else missing))
            missing -= run
        else:
            shifts, mask = (_TWO_BIT_SHIFTS, 3) if chunk & 0x4000 else (_ONE_BIT_SHIFTS, 1)
            runs += [(chunk >> shift & mask, 1) for shift in shifts[:missing]]
            missing -= len(shifts)
        if missing <= 0:
            return runs, position
    raise DecodeError(f"{missing} packet statuses are missing")


def _decode_deltas(body: bytes, position: int, runs: Iterable[tuple[int, int]]) -> list[int | None]:
    deltas: list[int | None] = []
    for symbol, run in runs:
        if symbol == _NOT_RECEIVED:
            deltas += [None] * run
        elif symbol == _SMALL_DELTA:
            deltas += body[position : position + run]
            position += run
        elif symbol == _LARGE_DELTA:
            if position + 2 * run <= len(body):
                deltas += struct.unpack_from(f"!{run}h", body, position)
            position += 2 * run
        else:
            raise DecodeError("a reserved packet status")
    if position > len(body):
        raise DecodeError("a delta is missing")
    return deltas


def _frame(feedback_format: int, body: bytes) -> bytes:
    return struct.pack("!BBH", 0x80 | feedback_format, PACKET_TYPE, len(body) // 4) + body


Feedback = GenericNack | TransportFeedback


def decode_feedback(feedback_format: int, body: bytes) -> Feedback | None:
    """Return the feedback in the body of a packet of type 205, or None for an unknown format.

    Raises DecodeError when the body is malformed.
    """
    if feedback_format == GenericNack.FORMAT:
        return GenericNack.decode_body(body)
    if feedback_format == TransportFeedback.FORMAT:
        return TransportFeedback.decode_body(body)
    return None
