"""Datagrams of unprotected DTLS records, as an off-path attacker can send them."""

from collections.abc import Callable

from antiphon_transceiver.dtls.messages import Fragment
from antiphon_transceiver.dtls.record import ContentType

DATAGRAM = 1500
"""Bytes of the longest datagram."""


def fill(item: Callable[[int], bytes], size: int = DATAGRAM) -> bytes:
    """Return a datagram full of records, of at most `size` bytes."""
    datagram = b""
    for number in range(size):
        more = item(number)
        if len(datagram) + len(more) > size:
            break
        datagram += more
    return datagram


def record(content_type: int, payload: bytes, *, epoch: int = 0, sequence: int = 0) -> bytes:
    """Return an unprotected record."""
    number = epoch.to_bytes(2, "big") + sequence.to_bytes(6, "big")
    return bytes((content_type, 0xFE, 0xFD)) + number + len(payload).to_bytes(2, "big") + payload


def handshake(message_type: int, length: int, sequence: int, offset: int, data: bytes) -> bytes:
    """Return an unprotected record with one handshake fragment."""
    return record(ContentType.HANDSHAKE, Fragment(message_type, length, sequence, offset, data).encode())
