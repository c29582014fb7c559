"""RTCP feedback and compounds full of it, as sent by a hostile receiver."""

import struct

from antiphon_transceiver.rtcp.feedback import MAX_STATUSES

PACKET_SIZE = 1200
"""Bytes of the longest compound."""

NONE_RECEIVED = struct.pack("!H", MAX_STATUSES)
RUN_OF_ONE, SMALL = struct.pack("!H", 1), struct.pack("!H", 0x2001)
"""Status chunks of transport-wide feedback."""


def filled(packet: bytes) -> bytes:
    """Return a compound that repeats a packet up to the accepted number."""
    return packet * min(PACKET_SIZE // len(packet), 64)


def transport_feedback(ssrc: int, base: int, count: int, chunks: bytes, deltas: bytes = b"") -> bytes:
    """Return transport-wide feedback on `count` packets from the transport-wide sequence number `base` on."""
    body = struct.pack("!IIHHI", 1, ssrc, base & 0xFFFF, count, 0) + chunks + deltas
    body += bytes(-len(body) % 4)
    return struct.pack("!BBH", 0x8F, 205, len(body) // 4) + body


def nack(ssrc: int, sequence: int, following: int = 0xFFFF) -> bytes:
    """Return a generic NACK of one packet and of those `following` it by its bits (RFC 4585 §6.2.1)."""
    return struct.pack("!BBHIIHH", 0x81, 205, 3, 1, ssrc, sequence & 0xFFFF, following)
