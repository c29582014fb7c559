"""STUN messages: encoding, decoding, MESSAGE-INTEGRITY and FINGERPRINT (RFC 8489 §5, §14.5, §14.7)."""

import hmac
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct
from typing import Self

from antiphon_common.errors import DecodeError
from antiphon_common.stun.attributes import (
    FIRST_OPTIONAL,
    MAGIC_COOKIE,
    REASONS,
    UNDERSTOOD,
    AttributeType,
    ErrorCode,
    decode_error_code,
    decode_unknown_attributes,
    decode_xor_address,
    encode_error_code,
    encode_unknown_attributes,
    encode_xor_address,
)

HEADER_SIZE = 20
TRANSACTION_ID_SIZE = 12
BINDING = 0x001
"""The only method that ICE uses."""

MAX_ATTRIBUTES = 32
"""Attributes of one message; browsers send ten. A datagram of empty attributes must not cost more than a real check."""

_HEADER = Struct("!HHI12s")
_ATTRIBUTE = Struct("!HH")
_LENGTH = Struct("!H")
_FINGERPRINT = Struct("!HHI")
_FINGERPRINT_XOR = 0x5354554E
_INTEGRITY_SIZE = 24
_INTEGRITY_HEAD = _ATTRIBUTE.pack(AttributeType.MESSAGE_INTEGRITY, 20)
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
# Plain integers: members of an enum cost a look-up each in the decoding loop.
_TYPE_INTEGRITY = int(AttributeType.MESSAGE_INTEGRITY)
_TYPE_FINGERPRINT = int(AttributeType.FINGERPRINT)


class MessageClass(IntEnum):
    """The class bits where they stand in the message type (RFC 8489 §5)."""

    REQUEST = 0x000
    INDICATION = 0x010
    SUCCESS = 0x100
    ERROR = 0x110


_CLASSES = {int(message_class): message_class for message_class in MessageClass}


@dataclass(slots=True)
class Message:
    """A STUN message. `encode` and `decode` convert it; properties return single attributes, None for missing ones.

    `attributes` maps types to raw values in wire order, unknown types included; of a repeated attribute the first
    counts. MESSAGE-INTEGRITY and FINGERPRINT are not among them: `encode` adds, `decode` and `verify` check them. The
    properties raise DecodeError when their attribute is malformed.
    """

    message_class: MessageClass
    transaction_id: bytes
    attributes: Mapping[int, bytes] = field(default_factory=dict)
    method: int = BINDING
    fingerprinted: bool = field(default=False, compare=False)
    """True if the message had a FINGERPRINT. A wrong one is a DecodeError."""
    _datagram: bytes = field(default=b"", compare=False, repr=False)
    _integrity_at: int = field(default=0, compare=False, repr=False)

    def encode(self, key: bytes | None = None, *, fingerprint: bool = True) -> bytes:
        """Return the datagram. With a `key`, the password, it has MESSAGE-INTEGRITY (RFC 8489 §9.1.1)."""
        method = self.method
        kind = (method & 0xF) | (method & 0x70) << 1 | (method & 0xF80) << 2 | self.message_class
        data = bytearray(_HEADER.pack(kind, 0, MAGIC_COOKIE, self.transaction_id))
        for attribute, value in self.attributes.items():
            data += _ATTRIBUTE.pack(attribute, len(value)) + value + _PADDING[len(value) & 3]
        if key is not None:
            _LENGTH.pack_into(data, 2, len(data) + _INTEGRITY_SIZE - HEADER_SIZE)
            data += _INTEGRITY_HEAD + hmac.digest(key, data, "sha1")
        _LENGTH.pack_into(data, 2, len(data) + (_FINGERPRINT.size if fingerprint else 0) - HEADER_SIZE)
        if fingerprint:
            data += _FINGERPRINT.pack(_TYPE_FINGERPRINT, 4, zlib.crc32(data) ^ _FINGERPRINT_XOR)
        return bytes(data)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Decode one whole datagram, without the attributes behind MESSAGE-INTEGRITY (RFC 8489 §14.5).

        Raises:
            DecodeError: its structure or its FINGERPRINT is wrong.
        """
        size = len(data)
        if size < HEADER_SIZE:
            raise DecodeError("shorter than a STUN header")
        kind, length, cookie, transaction_id = _HEADER.unpack_from(data)
        if kind >> 14 or cookie != MAGIC_COOKIE or length != size - HEADER_SIZE or length & 3:
            raise DecodeError("not a STUN header")
        attributes: dict[int, bytes] = {}
        fingerprinted = False
        integrity_at = 0
        at = HEADER_SIZE
        for _ in range(MAX_ATTRIBUTES):
            if at == size:
                break
            attribute, length = _ATTRIBUTE.unpack_from(data, at)
            stop = at + 4 + length
            if stop > size:
                raise DecodeError(f"attribute 0x{attribute:04x} reaches beyond the message")
            if attribute == _TYPE_FINGERPRINT:
                _check_fingerprint(data, at, length)
                fingerprinted = True
            elif not integrity_at:
                if attribute == _TYPE_INTEGRITY:
                    if length != 20:
                        raise DecodeError("MESSAGE-INTEGRITY is not 20 bytes")
                    integrity_at = at
                elif attribute not in attributes:
                    attributes[attribute] = data[at + 4 : stop]
            at = stop + 3 & ~3
        if at < size:
            raise DecodeError(f"more than {MAX_ATTRIBUTES} attributes")
        method = (kind & 0xF) | (kind & 0xE0) >> 1 | (kind & 0x3E00) >> 2
        message_class = _CLASSES[kind & 0x110]
        return cls(message_class, transaction_id, attributes, method, fingerprinted, data, integrity_at)

    @property
    def signed(self) -> bool:
        """True if a decoded message has MESSAGE-INTEGRITY, right or wrong."""
        return self._integrity_at != 0

    def verify(self, key: bytes) -> bool:
        """Return True if a decoded message has a MESSAGE-INTEGRITY made with `key`."""
        at = self._integrity_at
        if not at:
            return False
        data = self._datagram
        signed = data[:2] + _LENGTH.pack(at + _INTEGRITY_SIZE - HEADER_SIZE) + data[4:at]
        return hmac.compare_digest(hmac.digest(key, signed, "sha1"), data[at + 4 : at + _INTEGRITY_SIZE])

    @property
    def unknown_required(self) -> list[int]:
        """Types of comprehension-required attributes that are unknown."""
        return [kind for kind in self.attributes if kind < FIRST_OPTIONAL and kind not in UNDERSTOOD]

    @property
    def username(self) -> bytes | None:
        return self.attributes.get(AttributeType.USERNAME)

    @property
    def priority(self) -> int | None:
        return self._integer(AttributeType.PRIORITY, 4)

    @property
    def use_candidate(self) -> bool:
        return AttributeType.USE_CANDIDATE in self.attributes

    @property
    def ice_controlled(self) -> int | None:
        """The tie-breaker of a peer in the controlled role."""
        return self._integer(AttributeType.ICE_CONTROLLED, 8)

    @property
    def ice_controlling(self) -> int | None:
        """The tie-breaker of a peer in the controlling role."""
        return self._integer(AttributeType.ICE_CONTROLLING, 8)

    @property
    def xor_mapped_address(self) -> tuple[bytes, int] | None:
        """The 16 bytes of the address, IPv4 mapped, and the port."""
        value = self.attributes.get(AttributeType.XOR_MAPPED_ADDRESS)
        return None if value is None else decode_xor_address(value, self.transaction_id)

    @property
    def error_code(self) -> tuple[int, str] | None:
        """Code and reason."""
        value = self.attributes.get(AttributeType.ERROR_CODE)
        return None if value is None else decode_error_code(value)

    @property
    def unknown_attributes(self) -> list[int] | None:
        """The types that the peer did not understand, with error 420."""
        value = self.attributes.get(AttributeType.UNKNOWN_ATTRIBUTES)
        return None if value is None else decode_unknown_attributes(value)

    @property
    def software(self) -> str | None:
        """The peer's software. Raises DecodeError when it is not UTF-8."""
        value = self.attributes.get(AttributeType.SOFTWARE)
        try:
            return None if value is None else value.decode()
        except UnicodeDecodeError as error:
            raise DecodeError("SOFTWARE is not UTF-8") from error

    def _integer(self, attribute: int, size: int) -> int | None:
        value = self.attributes.get(attribute)
        if value is None:
            return None
        if len(value) != size:
            raise DecodeError(f"attribute 0x{attribute:04x} is not {size} bytes")
        return int.from_bytes(value, "big")


def success_response(request: Message, address: bytes, port: int) -> Message:
    """Return the response to a binding request that was received from `address` (16 bytes) and `port`."""
    mapped = encode_xor_address(address, port, request.transaction_id)
    return Message(
        MessageClass.SUCCESS, request.transaction_id, {AttributeType.XOR_MAPPED_ADDRESS: mapped}, request.method
    )


def error_response(request: Message, code: ErrorCode, unknown: list[int] | None = None) -> Message:
    """Return the error response to a request; `unknown` are the types for 420 (RFC 8489 §6.3.1)."""
    attributes: dict[int, bytes] = {AttributeType.ERROR_CODE: encode_error_code(code, REASONS[code])}
    if unknown is not None:
        attributes[AttributeType.UNKNOWN_ATTRIBUTES] = encode_unknown_attributes(unknown)
    return Message(MessageClass.ERROR, request.transaction_id, attributes, request.method)


def _check_fingerprint(data: bytes, at: int, length: int) -> None:
    if length != 4 or at + _FINGERPRINT.size != len(data):
        raise DecodeError("FINGERPRINT is not the last attribute, or not 4 bytes")
    if zlib.crc32(data[:at]) ^ _FINGERPRINT_XOR != int.from_bytes(data[at + 4 :], "big"):
        raise DecodeError("FINGERPRINT does not match")
