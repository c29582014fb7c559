"""Parameters and error causes: type, length, value, padded to four bytes (RFC 9260 §3.2.1 and §3.3.10)."""

from collections.abc import Iterable
from enum import IntEnum
from struct import Struct, pack, unpack
from typing import NamedTuple, Self

import msgspec

from antiphon_common.errors import DecodeError

_HEADER = Struct("!HH")
_RESET_REQUEST = Struct("!III")
_RESPONSE = Struct("!II")


class ParameterType(IntEnum):
    """The types of parameters that are handled. Others are decoded and ignored."""

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
    """An error cause of ABORT or ERROR (RFC 9260 §3.3.10)."""

    STALE_COOKIE = 3
    OUT_OF_RESOURCE = 4
    UNRECOGNIZED_CHUNK = 6
    USER_INITIATED_ABORT = 12
    PROTOCOL_VIOLATION = 13


class Parameter(NamedTuple):
    """A parameter or an error cause, which have the same format. `encode_parameters` joins several."""

    type: int
    value: bytes


def encode_parameters(parameters: Iterable[Parameter]) -> bytes:
    """Return the parameters, each but the last one padded: its padding is that of the chunk (RFC 9260 §3.2)."""
    data = b""
    for parameter in parameters:
        data += bytes(-len(data) % 4) + _HEADER.pack(parameter.type, 4 + len(parameter.value)) + parameter.value
    return data


def decode_parameters(data: bytes) -> tuple[Parameter, ...]:
    """Invert `encode_parameters`. The padding of the last parameter is optional.

    Raises:
        DecodeError: A length does not fit the data.
    """
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
    """A request to reset the sender's `streams`, or all of them if there is none (RFC 6525 §4.1)."""

    sequence: int
    response_sequence: int
    last_tsn: int
    streams: tuple[int, ...]

    def encode(self) -> Parameter:
        head = _RESET_REQUEST.pack(self.sequence, self.response_sequence, self.last_tsn)
        return Parameter(ParameterType.OUTGOING_RESET_REQUEST, head + pack(f"!{len(self.streams)}H", *self.streams))

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """Invert `encode`, given the parameter's value.

        Raises:
            DecodeError: The value has the wrong length.
        """
        count, rest = divmod(len(value) - _RESET_REQUEST.size, 2)
        if count < 0 or rest:
            raise DecodeError("a reset request of the wrong length")
        sequence, response_sequence, last_tsn = _RESET_REQUEST.unpack_from(value)
        return cls(sequence, response_sequence, last_tsn, unpack(f"!{count}H", value[_RESET_REQUEST.size :]))


class ReconfigResult(IntEnum):
    """The result of a request (RFC 6525 §4.4)."""

    NOTHING_TO_DO = 0
    PERFORMED = 1
    DENIED = 2
    WRONG_SSN = 3
    REQUEST_IN_PROGRESS = 4
    BAD_SEQUENCE_NUMBER = 5
    IN_PROGRESS = 6


class ReconfigResponse(msgspec.Struct, frozen=True):
    """The response to the request numbered `sequence` (RFC 6525 §4.4). TSNs of TSN resets are ignored."""

    sequence: int
    result: int

    def encode(self) -> Parameter:
        return Parameter(ParameterType.RECONFIG_RESPONSE, _RESPONSE.pack(self.sequence, self.result))

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """Invert `encode`, given the parameter's value.

        Raises:
            DecodeError: The value is cut short.
        """
        if len(value) < _RESPONSE.size:
            raise DecodeError("a response cut short")
        sequence, result = _RESPONSE.unpack_from(value)
        return cls(sequence, result)
