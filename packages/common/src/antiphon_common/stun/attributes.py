"""AttributeType types, and the values that are more than an integer or a string (RFC 8489 §14, RFC 8445 §16.1).

Addresses are those of `core.Path`: always 16 bytes, IPv4 mapped (RFC 4291 §2.5.5.2).
"""

from enum import IntEnum

from antiphon_common.errors import DecodeError

MAGIC_COOKIE = 0x2112A442
_MAGIC_COOKIE_BYTES = MAGIC_COOKIE.to_bytes(4, "big")
_IPV4_MAPPED = bytes(10) + b"\xff\xff"
_IPV4, _IPV6 = 1, 2
_SIZES = {_IPV4: 4, _IPV6: 16}


class AttributeType(IntEnum):
    """AttributeType types that are understood (RFC 8489 §18.3, RFC 8445 §16.1)."""

    MAPPED_ADDRESS = 0x0001
    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    REALM = 0x0014
    NONCE = 0x0015
    XOR_MAPPED_ADDRESS = 0x0020
    PRIORITY = 0x0024
    USE_CANDIDATE = 0x0025
    SOFTWARE = 0x8022
    FINGERPRINT = 0x8028
    ICE_CONTROLLED = 0x8029
    ICE_CONTROLLING = 0x802A
    NETWORK_INFO = 0xC057
    """Chromium's network id and cost, u16 each. It is ignored."""


FIRST_OPTIONAL = 0x8000
"""Attributes below this type are comprehension-required: an unknown one is refused with 420 (RFC 8489 §14)."""
UNDERSTOOD = frozenset(int(attribute) for attribute in AttributeType)


class ErrorCode(IntEnum):
    """Error codes (RFC 8489 §14.8, RFC 8445 §16.2)."""

    BAD_REQUEST = 400
    UNAUTHENTICATED = 401
    UNKNOWN_ATTRIBUTE = 420
    ROLE_CONFLICT = 487
    SERVER_ERROR = 500


REASONS = {
    ErrorCode.BAD_REQUEST: "Bad Request",
    ErrorCode.UNAUTHENTICATED: "Unauthenticated",
    ErrorCode.UNKNOWN_ATTRIBUTE: "Unknown AttributeType",
    ErrorCode.ROLE_CONFLICT: "Role Conflict",
    ErrorCode.SERVER_ERROR: "Server Error",
}


def encode_address(address: bytes, port: int) -> bytes:
    """Return the value of MAPPED-ADDRESS (RFC 8489 §14.1)."""
    if address.startswith(_IPV4_MAPPED):
        return b"\0\1" + port.to_bytes(2, "big") + address[12:]
    return b"\0\2" + port.to_bytes(2, "big") + address


def decode_address(value: bytes) -> tuple[bytes, int]:
    """Invert `encode_address`: return the 16 bytes of the address, and the port.

    Raises:
        DecodeError: the family is unknown, or the length is wrong.
    """
    if len(value) < 4 or len(value) - 4 != _SIZES.get(value[1]):
        raise DecodeError("not the address of a known family")
    address = value[4:]
    return address if len(address) == 16 else _IPV4_MAPPED + address, int.from_bytes(value[2:4], "big")


def encode_xor_address(address: bytes, port: int, transaction_id: bytes) -> bytes:
    """Return the value of XOR-MAPPED-ADDRESS (RFC 8489 §14.2)."""
    if address.startswith(_IPV4_MAPPED):
        masked = int.from_bytes(address[12:], "big") ^ MAGIC_COOKIE
        return (0x1_0000_0000_0000 | (port ^ MAGIC_COOKIE >> 16) << 32 | masked).to_bytes(8, "big")
    return b"\0\2" + (port ^ MAGIC_COOKIE >> 16).to_bytes(2, "big") + _mask(address, transaction_id)


def decode_xor_address(value: bytes, transaction_id: bytes) -> tuple[bytes, int]:
    """Invert `encode_xor_address`: return the 16 bytes of the address, and the port.

    Raises:
        DecodeError: the family is unknown, or the length is wrong.
    """
    address, port = decode_address(value)
    if value[1] == _IPV4:
        address = _IPV4_MAPPED + (int.from_bytes(value[4:], "big") ^ MAGIC_COOKIE).to_bytes(4, "big")
    else:
        address = _mask(address, transaction_id)
    return address, port ^ MAGIC_COOKIE >> 16


def _mask(address: bytes, transaction_id: bytes) -> bytes:
    mask = int.from_bytes(_MAGIC_COOKIE_BYTES + transaction_id, "big")
    return (int.from_bytes(address, "big") ^ mask).to_bytes(16, "big")


def encode_error_code(code: int, reason: str) -> bytes:
    """Return the value of ERROR-CODE (RFC 8489 §14.8); `code` is 300 to 699."""
    return bytes((0, 0, code // 100, code % 100)) + reason.encode()


def decode_error_code(value: bytes) -> tuple[int, str]:
    """Invert `encode_error_code`: return code and reason.

    Raises:
        DecodeError: the value is too short, its code is out of range, or its reason is not UTF-8.
    """
    if len(value) < 4:
        raise DecodeError("ERROR-CODE is too short")
    hundreds, rest = value[2] & 7, value[3]
    if not 3 <= hundreds <= 6 or rest > 99:
        raise DecodeError(f"no such error code: class {hundreds}, number {rest}")
    try:
        return hundreds * 100 + rest, value[4:].decode()
    except UnicodeDecodeError as error:
        raise DecodeError("the reason of ERROR-CODE is not UTF-8") from error


def encode_unknown_attributes(types: list[int]) -> bytes:
    """Return the value of UNKNOWN-ATTRIBUTES (RFC 8489 §14.9)."""
    return b"".join(kind.to_bytes(2, "big") for kind in types)


def decode_unknown_attributes(value: bytes) -> list[int]:
    """Invert `encode_unknown_attributes`.

    Raises:
        DecodeError: the length is odd.
    """
    if len(value) % 2:
        raise DecodeError("UNKNOWN-ATTRIBUTES has an odd length")
    return [value[at] << 8 | value[at + 1] for at in range(0, len(value), 2)]
