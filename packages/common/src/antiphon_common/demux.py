"""Demultiplexing of the protocols that share one UDP port, by the first bytes (RFC 7983, RFC 5761)."""

from enum import IntEnum


class Protocol(IntEnum):
    """The protocol of a datagram, as `classify` returns it."""

    UNKNOWN = 0
    STUN = 1
    DTLS = 2
    RTP = 3
    RTCP = 4


_BY_FIRST_BYTE = bytes(
    Protocol.STUN if first <= 3 else Protocol.DTLS if 20 <= first <= 63 else Protocol.RTP if 128 <= first <= 191 else 0
    for first in range(256)
)


def classify(datagram: bytes) -> int:
    """Return the `Protocol` of a datagram, UNKNOWN if it is shorter than two bytes.

    The second byte of an RTCP packet is 192 to 223, where RTP and RTCP share a port (RFC 5761 §4).
    """
    if len(datagram) < 2:
        return Protocol.UNKNOWN
    protocol = _BY_FIRST_BYTE[datagram[0]]
    if protocol == Protocol.RTP and 192 <= datagram[1] <= 223:
        return Protocol.RTCP
    return protocol
