"""Encoded addresses: the kernel's `sockaddr_in` of 16 bytes, and `sockaddr_in6` of 28 bytes, in Linux's layout.

They are compared, hashed and passed back to the kernel as bytes, since a relay moves 100,000 datagrams a second. Flow
information and scope are zero: link-local addresses are not used.
"""

import ipaddress
import struct

AF_INET, AF_INET6 = 2, 10
SIZE = {AF_INET: 16, AF_INET6: 28}
"""Bytes of an encoded address by its family."""

_INET = struct.Struct("=H2s4s8x")
_INET6 = struct.Struct("=H2s4x16s4x")
_MAPPED = b"\0" * 10 + b"\xff\xff"
"""The prefix of an IPv4 address in 16 bytes (RFC 4291 §2.5.5.2)."""


def encode_address(host: str, port: int) -> bytes:
    """Return the encoded address of a numeric host and a port.

    Raises:
        ValueError: `host` is not numeric.
    """
    address = ipaddress.ip_address(host)
    layout, family = (_INET, AF_INET) if address.version == 4 else (_INET6, AF_INET6)
    return layout.pack(family, port.to_bytes(2, "big"), address.packed)


def decode_address(encoded: bytes) -> tuple[str, int]:
    """Invert `encode_address`: return numeric host and port."""
    _, port, packed = (_INET if len(encoded) == _INET.size else _INET6).unpack(encoded)
    return str(ipaddress.ip_address(packed)), int.from_bytes(port, "big")


def port_and_address(encoded: bytes) -> bytes:
    """Return the last 18 bytes of an encoded path: port and address in network order, IPv4 mapped."""
    if len(encoded) == _INET.size:
        return encoded[2:4] + _MAPPED + encoded[4:8]
    return encoded[2:4] + encoded[8:24]


def from_port_and_address(data: bytes) -> bytes:
    """Invert `port_and_address`."""
    port, address = data[:2], data[2:]
    if address.startswith(_MAPPED):
        return _INET.pack(AF_INET, port, address[12:])
    return _INET6.pack(AF_INET6, port, address)
