"""Chunks of SCTP (RFC 9260 §3.3, RFC 3758 §3.2, RFC 6525 §3.1). Numbers are as on the wire: TSNs have 32 bits.

Each chunk has `encode`, which returns the whole chunk, and `decode`, which takes its flags and value. `decode` raises
DecodeError for a malformed value.
"""

from collections.abc import Callable, Iterator
from enum import IntEnum
from itertools import chain
from struct import Struct, pack, unpack
from typing import Any, ClassVar

import msgspec

from antiphon_common.errors import DecodeError
from antiphon_transceiver.sctp.parameters import Parameter, decode_parameters, encode_parameters

HEADER_SIZE = 4
DATA_HEADER_SIZE = 16
SACK_SIZE = 16
"""Bytes of a SACK without gap blocks and duplicates."""

_HEADER = Struct("!BBH")
_DATA = Struct("!BBHIHHI")
_SACK = Struct("!IIHH")
_INIT = Struct("!IIHHI")

_ENDING, _BEGINNING, _UNORDERED, _IMMEDIATE = 1, 2, 4, 8
_REFLECTED = 1


class ChunkType(IntEnum):
    """The types of chunks that are handled. Others are decoded as `Unknown`."""

    DATA = 0
    INIT = 1
    INIT_ACK = 2
    SACK = 3
    HEARTBEAT = 4
    HEARTBEAT_ACK = 5
    ABORT = 6
    SHUTDOWN = 7
    SHUTDOWN_ACK = 8
    ERROR = 9
    COOKIE_ECHO = 10
    COOKIE_ACK = 11
    SHUTDOWN_COMPLETE = 14
    RECONFIG = 130
    FORWARD_TSN = 192


def encode_chunk(kind: int, flags: int, value: bytes) -> bytes:
    """Return a chunk, padded to four bytes. Its length field does not count the padding."""
    length = HEADER_SIZE + len(value)
    return _HEADER.pack(kind, flags, length) + value + bytes(-length % 4)


class Data(msgspec.Struct, frozen=True):
    """DATA (RFC 9260 §3.3.1): a fragment of a message. It is the whole message if `beginning` and `ending`."""

    type: ClassVar[int] = ChunkType.DATA

    tsn: int
    stream: int
    ssn: int
    ppid: int
    payload: bytes
    beginning: bool = True
    ending: bool = True
    unordered: bool = False
    immediate: bool = False
    """The I bit: the sender asks for a SACK without delay."""

    def encode(self) -> bytes:
        flags = (
            self.ending * _ENDING
            | self.beginning * _BEGINNING
            | self.unordered * _UNORDERED
            | self.immediate * _IMMEDIATE
        )
        length = DATA_HEADER_SIZE + len(self.payload)
        head = _DATA.pack(self.type, flags, length, self.tsn, self.stream, self.ssn, self.ppid)
        return head + self.payload + bytes(-length % 4)

    @classmethod
    def decode(cls, flags: int, value: bytes) -> "Data":
        """Invert `encode`.

        Raises:
            DecodeError: The value has no payload.
        """
        if len(value) <= 12:
            raise DecodeError("a DATA chunk without data")
        tsn, stream, ssn, ppid = _DATA_VALUE.unpack_from(value)
        return cls(
            tsn,
            stream,
            ssn,
            ppid,
            value[12:],
            flags & _BEGINNING != 0,
            flags & _ENDING != 0,
            flags & _UNORDERED != 0,
            flags & _IMMEDIATE != 0,
        )


_DATA_VALUE = Struct("!IHHI")


class Init(msgspec.Struct, frozen=True):
    """INIT (RFC 9260 §3.3.2): the parameters of its sender; `a_rwnd` is in bytes."""

    type: ClassVar[int] = ChunkType.INIT

    tag: int
    a_rwnd: int
    outbound_streams: int
    inbound_streams: int
    initial_tsn: int
    parameters: tuple[Parameter, ...] = ()

    def encode(self) -> bytes:
        fixed = _INIT.pack(self.tag, self.a_rwnd, self.outbound_streams, self.inbound_streams, self.initial_tsn)
        return encode_chunk(self.type, 0, fixed + encode_parameters(self.parameters))

    @classmethod
    def decode(cls, flags: int, value: bytes) -> "Init":
        """Invert `encode`.

        Raises:
            DecodeError: The value is malformed, or tag or a number of streams is zero.
        """
        if len(value) < _INIT.size:
            raise DecodeError("an INIT too short")
        tag, a_rwnd, outbound, inbound, tsn = _INIT.unpack_from(value)
        if not (tag and outbound and inbound):  # RFC 9260 §3.3.2
            raise DecodeError("an INIT without a tag or streams")
        return cls(tag, a_rwnd, outbound, inbound, tsn, decode_parameters(value[_INIT.size :]))

    def parameter(self, kind: int) -> bytes | None:
        """Return the value of the first parameter of a type, or None."""
        return next((parameter.value for parameter in self.parameters if parameter.type == kind), None)


class InitAck(Init, frozen=True):
    """INIT ACK (RFC 9260 §3.3.3): the same as INIT, with a state cookie."""

    type: ClassVar[int] = ChunkType.INIT_ACK


class Sack(msgspec.Struct, frozen=True):
    """SACK (RFC 9260 §3.3.4). `gaps` are first and last offset from `cumulative_tsn` of each gap ack block."""

    type: ClassVar[int] = ChunkType.SACK

    cumulative_tsn: int
    a_rwnd: int
    gaps: tuple[tuple[int, int], ...] = ()
    duplicates: tuple[int, ...] = ()

    def encode(self) -> bytes:
        gaps, duplicates = self.gaps, self.duplicates
        value = _SACK.pack(self.cumulative_tsn, self.a_rwnd, len(gaps), len(duplicates))
        if gaps or duplicates:
            value += pack(f"!{2 * len(gaps)}H{len(duplicates)}I", *chain.from_iterable(gaps), *duplicates)
        return encode_chunk(self.type, 0, value)

    @classmethod
    def decode(cls, flags: int, value: bytes) -> "Sack":
        """Invert `encode`.

        Raises:
            DecodeError: The counts do not fit the length, or gap ack blocks are not in ascending order.
        """
        if len(value) < _SACK.size:
            raise DecodeError("a SACK too short")
        cumulative_tsn, a_rwnd, gap_count, duplicate_count = _SACK.unpack_from(value)
        if len(value) != _SACK.size + 4 * (gap_count + duplicate_count):
            raise DecodeError("a SACK whose counts do not fit its length")
        if not gap_count and not duplicate_count:
            return cls(cumulative_tsn, a_rwnd)
        gaps_end = _SACK.size + 4 * gap_count
        gaps = tuple(_HALVES.iter_unpack(value[_SACK.size : gaps_end]))
        highest = 0
        for first, last in gaps:
            # Blocks that overlap could name every TSN hundreds of times.
            if not highest < first <= last:
                raise DecodeError("gap blocks that overlap or go back")
            highest = last
        duplicates = unpack(f"!{duplicate_count}I", value[gaps_end:])
        return cls(cumulative_tsn, a_rwnd, gaps, duplicates)


_HALVES = Struct("!HH")


class _Opaque(msgspec.Struct, frozen=True):
    """A chunk whose value is not decoded."""

    type: ClassVar[int]

    value: bytes = b""

    def encode(self) -> bytes:
        return encode_chunk(self.type, 0, self.value)

    @classmethod
    def decode(cls, flags: int, value: bytes) -> "_Opaque":
        return cls(value)


class Heartbeat(_Opaque, frozen=True):
    """HEARTBEAT (RFC 9260 §3.3.5)."""

    type: ClassVar[int] = ChunkType.HEARTBEAT


class HeartbeatAck(_Opaque, frozen=True):
    """HEARTBEAT ACK (RFC 9260 §3.3.6), with the value of the HEARTBEAT."""

    type: ClassVar[int] = ChunkType.HEARTBEAT_ACK


class ShutdownAck(_Opaque, frozen=True):
    """SHUTDOWN ACK (RFC 9260 §3.3.9)."""

    type: ClassVar[int] = ChunkType.SHUTDOWN_ACK


class CookieEcho(_Opaque, frozen=True):
    """COOKIE ECHO (RFC 9260 §3.3.11). Its value is the state cookie."""

    type: ClassVar[int] = ChunkType.COOKIE_ECHO


class CookieAck(_Opaque, frozen=True):
    """COOKIE ACK (RFC 9260 §3.3.12)."""

    type: ClassVar[int] = ChunkType.COOKIE_ACK


class ShutdownComplete(msgspec.Struct, frozen=True):
    """SHUTDOWN COMPLETE (RFC 9260 §3.3.13).

    `reflected` is the T bit: the packet has the tag of its receiver's peer, since the sender has no association.
    """

    type: ClassVar[int] = ChunkType.SHUTDOWN_COMPLETE

    reflected: bool = False

    def encode(self) -> bytes:
        return encode_chunk(self.type, self.reflected * _REFLECTED, b"")

    @classmethod
    def decode(cls, flags: int, value: bytes) -> "ShutdownComplete":
        return cls(flags & _REFLECTED != 0)


class Shutdown(msgspec.Struct, frozen=True):
    """SHUTDOWN (RFC 9260 §3.3.8)."""

    type: ClassVar[int] = ChunkType.SHUTDOWN

    cumulative_tsn: int

    def encode(self) -> bytes:
        return encode_chunk(self.type, 0, self.cumulative_tsn.to_bytes(4, "big"))

    @classmethod
    def decode(cls, flags: int, value: bytes) -> "Shutdown":
        """Invert `encode`.

        Raises:
            DecodeError: The value has not four bytes.
        """
        if len(value) != 4:
            raise DecodeError("a SHUTDOWN of the wrong length")
        return cls(int.from_bytes(value, "big"))


class Abort(msgspec.Struct, frozen=True):
    """ABORT (RFC 9260 §3.3.7). `reflected` is the T bit, as in SHUTDOWN COMPLETE."""

    type: ClassVar[int] = ChunkType.ABORT

    causes: tuple[Parameter, ...] = ()
    reflected: bool = False

    def encode(self) -> bytes:
        return encode_chunk(self.type, self.reflected * _REFLECTED, encode_parameters(self.causes))

    @classmethod
    def decode(cls, flags: int, value: bytes) -> "Abort":
        return cls(decode_parameters(value), flags & _REFLECTED != 0)


class _Parameters(msgspec.Struct, frozen=True):
    """A chunk that is a list of parameters."""

    type: ClassVar[int]

    parameters: tuple[Parameter, ...]

    def encode(self) -> bytes:
        return encode_chunk(self.type, 0, encode_parameters(self.parameters))

    @classmethod
    def decode(cls, flags: int, value: bytes) -> "_Parameters":
        return cls(decode_parameters(value))


class Error(_Parameters, frozen=True):
    """ERROR (RFC 9260 §3.3.10). Its parameters are error causes."""

    type: ClassVar[int] = ChunkType.ERROR


class Reconfig(_Parameters, frozen=True):
    """RE-CONFIG (RFC 6525 §3.1). Its parameters are requests and responses."""

    type: ClassVar[int] = ChunkType.RECONFIG


class ForwardTsn(msgspec.Struct, frozen=True):
    """FORWARD TSN (RFC 3758 §3.2): TSNs up to `cumulative_tsn` are abandoned.

    `streams` has pairs of a stream and the last SSN skipped on it.
    """

    type: ClassVar[int] = ChunkType.FORWARD_TSN

    cumulative_tsn: int
    streams: tuple[tuple[int, int], ...] = ()

    def encode(self) -> bytes:
        streams = b"".join(_HALVES.pack(*skipped) for skipped in self.streams)
        return encode_chunk(self.type, 0, self.cumulative_tsn.to_bytes(4, "big") + streams)

    @classmethod
    def decode(cls, flags: int, value: bytes) -> "ForwardTsn":
        """Invert `encode`.

        Raises:
            DecodeError: The value has the wrong length.
        """
        if not value or len(value) % 4:
            raise DecodeError("a FORWARD TSN of the wrong length")
        return cls(int.from_bytes(value[:4], "big"), tuple(_HALVES.iter_unpack(value[4:])))


class Unknown(msgspec.Struct, frozen=True):
    """A chunk of a type that is not handled. The upper bits of the type select what to do (RFC 9260 §3.2)."""

    type: int
    flags: int
    value: bytes

    @property
    def stops_packet(self) -> bool:
        """Whether the rest of the packet must be ignored."""
        return not self.type & 0x80

    @property
    def wants_report(self) -> bool:
        """Whether the chunk must be reported in an ERROR."""
        return self.type & 0x40 != 0

    def encode(self) -> bytes:
        return encode_chunk(self.type, self.flags, self.value)


Chunk = (
    Data
    | Init
    | Sack
    | Heartbeat
    | HeartbeatAck
    | Abort
    | Shutdown
    | ShutdownAck
    | Error
    | CookieEcho
    | CookieAck
    | ShutdownComplete
    | Reconfig
    | ForwardTsn
    | Unknown
)

_DECODERS: dict[int, Callable[[int, bytes], Any]] = {
    kind.type: kind.decode
    for kind in (
        Data,
        Init,
        InitAck,
        Sack,
        Heartbeat,
        HeartbeatAck,
        Abort,
        Shutdown,
        ShutdownAck,
        Error,
        CookieEcho,
        CookieAck,
        ShutdownComplete,
        Reconfig,
        ForwardTsn,
    )
}


def decode_chunks(data: bytes, position: int = 0) -> Iterator[Chunk]:
    """Yield the chunks from `position` on.

    Raises:
        DecodeError: A chunk is malformed. Those before it have been yielded.
    """
    end = len(data)
    while position < end:
        if end - position < HEADER_SIZE:
            raise DecodeError("a chunk without a header")
        kind, flags, length = _HEADER.unpack_from(data, position)
        if not HEADER_SIZE <= length <= end - position:
            raise DecodeError(f"a chunk of {length} bytes, {end - position} left")
        value = data[position + HEADER_SIZE : position + length]
        decode = _DECODERS.get(kind)
        yield decode(flags, value) if decode else Unknown(kind, flags, value)
        position += length + -length % 4
