"""The parts of IP, UDP, TCP and ICMP that a router with NAT needs. Addresses are bytes, packets whole IP packets."""

import struct

UDP, TCP, ICMP = 17, 6, 1

IPV4_HEADER = 20
_CHECKSUM_AT = {UDP: 6, TCP: 16}
"""Offset of the checksum in the transport header."""

_DONT_FRAGMENT = 0x40

Endpoint = tuple[bytes, int]
"""Address and port."""


def addresses(packet: bytes) -> tuple[bytes, bytes]:
    """Return source and destination address: 4 bytes each for IPv4, 16 for IPv6."""
    return (packet[12:16], packet[16:20]) if packet[0] >> 4 == 4 else (packet[8:24], packet[24:40])


def protocol(packet: bytes) -> int:
    """Return the transport protocol. An IPv6 extension header counts as one."""
    return packet[9] if packet[0] >> 4 == 4 else packet[6]


def is_later_fragment(packet: bytes) -> bool:
    """Return whether this is an IPv4 fragment other than the first, which has no ports."""
    return packet[0] >> 4 == 4 and int.from_bytes(packet[6:8], "big") & 0x1FFF != 0


def endpoints(packet: bytes) -> tuple[Endpoint, Endpoint] | None:
    """Return source and destination of UDP or TCP over IPv4. Return None for other packets and later fragments."""
    header = (packet[0] & 0x0F) * 4
    is_known = packet[0] >> 4 == 4 and packet[9] in _CHECKSUM_AT
    if not is_known or is_later_fragment(packet) or len(packet) < header + 8:
        return None
    source, target = struct.unpack_from("!HH", packet, header)
    return (packet[12:16], source), (packet[16:20], target)


def rewrite(packet: bytes, source: Endpoint, target: Endpoint) -> bytes:
    """Return a packet with other endpoints and adjusted checksums (RFC 1624). `endpoints` must accept the packet."""
    header = (packet[0] & 0x0F) * 4
    rewritten = bytearray(packet)
    rewritten[12:20] = source[0] + target[0]
    struct.pack_into("!HH", rewritten, header, source[1], target[1])
    _adjust(rewritten, 10, packet[12:20], rewritten[12:20])
    at = header + _CHECKSUM_AT[packet[9]]
    if packet[9] != UDP or packet[at : at + 2] != b"\0\0":
        before = packet[12:20] + packet[header : header + 4]
        _adjust(rewritten, at, before, rewritten[12:20] + rewritten[header : header + 4])
        if packet[9] == UDP and rewritten[at : at + 2] == b"\0\0":
            rewritten[at : at + 2] = b"\xff\xff"
    return bytes(rewritten)


def rewrite_source(packet: bytes, source: bytes) -> bytes:
    """Return an IPv4 packet with another source address and an adjusted header checksum (RFC 1624)."""
    rewritten = bytearray(packet)
    rewritten[12:16] = source
    _adjust(rewritten, 10, packet[12:16], source)
    return bytes(rewritten)


def fragmentation_needed(packet: bytes, mtu: int) -> bytes | None:
    """Return the ICMP message "fragmentation needed" (RFC 1191 §4). Return None if the packet may be fragmented."""
    if packet[0] >> 4 != 4 or not packet[6] & _DONT_FRAGMENT:
        return None
    quoted = packet[: (packet[0] & 0x0F) * 4 + 8]
    body = bytearray(struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quoted)
    struct.pack_into("!H", body, 2, checksum(body))
    header = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, IPV4_HEADER + len(body), 0, 0, 64, ICMP, 0))
    header += packet[16:20] + packet[12:16]
    struct.pack_into("!H", header, 10, checksum(header))
    return bytes(header + body)


def checksum(data: bytes | bytearray) -> int:
    """Return the Internet checksum (RFC 1071)."""
    return ~_sum(data) & 0xFFFF


def _adjust(packet: bytearray, at: int, before: bytes | bytearray, after: bytes | bytearray) -> None:
    old = int.from_bytes(packet[at : at + 2], "big")
    total = (~old & 0xFFFF) + (~_sum(before) & 0xFFFF) + _sum(after)
    struct.pack_into("!H", packet, at, ~_fold(total) & 0xFFFF)


def _sum(data: bytes | bytearray) -> int:
    padded = data + b"\0" * (len(data) % 2)
    return _fold(sum(struct.unpack(f"!{len(padded) // 2}H", padded)))


def _fold(total: int) -> int:
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
