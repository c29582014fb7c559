"""Parameters and error causes: type, length, value, padded to four bytes (RFC 9260 §3.2.1 and §3.3.10)."""

from collections.abc import Iterable
from enum import IntEnum
from struct import Struct
from typing import NamedTuple, Self

import msgspec

from antiphon_common.errors import DecodeError
from antiphon_common.wire import Reader

_HEADER = Struct("!HH")


class ParameterType(IntEnum):
    HEARTBEAT_INFO = 1
    STATE_COOKIE = 7
    OUTGOING_RESET_REQUEST = 13
    INCOMING_RESET_REQUEST = 14
    TSN_RESET_REQUEST = 15
    RECONFIG_RESPONSE = 16
    ADD_OUTGOING_STREAMS = 17
    ADD_INCOMING_STREAMS = 18
    SUPPORTED_EXTENSIONS = 0x8008
    FORWARD_TSN_SUPPORTED = 0xC000


class Cause(IntEnum):
    """Error causes that ABORT and ERROR carry (RFC 9260 §3.3.10)."""

    STALE_COOKIE = 3
    OUT_OF_RESOURCE = 4
    UNRECOGNIZED_CHUNK = 6
    USER_INITIATED_ABORT = 12
    PROTOCOL_VIOLATION = 13


class Parameter(NamedTuple):
    """A parameter or an error cause; both have the same shape."""

    type: int
    value: bytes


def encode_parameters(parameters: Iterable[Parameter]) -> bytes:
    """Join parameters, each but the last padded: the padding of the last is the chunk's (RFC 9260 §3.2)."""
    data = b""
    for parameter in parameters:
        data += bytes(-len(data) % 4) + _HEADER.pack(parameter.type, 4 + len(parameter.value)) + parameter.value
    return data


def decode_parameters(data: bytes) -> tuple[Parameter, ...]:
    """Invert `encode_parameters`; the padding of the last one may be there or not."""
    parameters = []
    position, end = 0, len(data)
    while position < end:
        if end - position < 4:
            raise DecodeError("a parameter without a header")
        kind, length = _HEADER.unpack_from(data, position)
        if not 4 <= length <= end - position:
            raise DecodeError(f"a parameter of {length} bytes, {end - position} left")
        parameters.append(Parameter(kind, data[position + 4 : position + length]))
        position += length + -length % 4
    return tuple(parameters)


class OutgoingResetRequest(msgspec.Struct, frozen=True):
    """The sender starts its `streams` over; with none named, all of them (RFC 6525 §4.1)."""

    sequence: int
    response_sequence: int
    last_tsn: int
    streams: tuple[int, ...]

    def encode(self) -> Parameter:
        head = b"".join(n.to_bytes(4, "big") for n in (self.sequence, self.response_sequence, self.last_tsn))
        streams = b"".join(stream.to_bytes(2, "big") for stream in self.streams)
        return Parameter(ParameterType.OUTGOING_RESET_REQUEST, head + streams)

    @classmethod
    def decode(cls, value: bytes) -> Self:
        reader = Reader(value)
        sequence, response_sequence, last_tsn = (reader.pull_uint32() for _ in range(3))
        streams = []
        while reader.remaining:
            streams.append(reader.pull_uint16())
        return cls(sequence, response_sequence, last_tsn, tuple(streams))


class ReconfigResult(IntEnum):
    """What became of a request (RFC 6525 §4.4)."""

    NOTHING_TO_DO = 0
    PERFORMED = 1
    DENIED = 2
    WRONG_SSN = 3
    REQUEST_IN_PROGRESS = 4
    BAD_SEQUENCE_NUMBER = 5
    IN_PROGRESS = 6


class ReconfigResponse(msgspec.Struct, frozen=True):
    """The answer to the request numbered `sequence` (RFC 6525 §4.4); TSNs of TSN resets are not read."""

    sequence: int
    result: int

    def encode(self) -> Parameter:
        value = self.sequence.to_bytes(4, "big") + self.result.to_bytes(4, "big")
        return Parameter(ParameterType.RECONFIG_RESPONSE, value)

    @classmethod
    def decode(cls, value: bytes) -> Self:
        reader = Reader(value)
        return cls(reader.pull_uint32(), reader.pull_uint32())
