"""The relay's look at a binding request: which ufrag does it name? Nothing is verified, nothing else decoded."""

_BINDING_REQUEST = b"\x00\x01"
_MAGIC_COOKIE = b"\x21\x12\xa4\x42"
_HEADER_SIZE = 20
_USERNAME = 0x0006

MAX_PEEKED_ATTRIBUTES = 16
"""Attributes among which USERNAME is searched; clients put it in the first four. A datagram of empty attributes must
not cost more than a real check."""


def peek_username(datagram: bytes) -> bytes | None:
    """Return the server's ufrag in USERNAME, left of the colon (RFC 8445 §7.2.2). Never raises.

    Return None unless `datagram` is a binding request whose header, and attributes up to USERNAME, are well formed.
    """
    size = len(datagram)
    if (
        size < _HEADER_SIZE
        or not datagram.startswith(_BINDING_REQUEST)
        or not datagram.startswith(_MAGIC_COOKIE, 4)
        or (datagram[2] << 8 | datagram[3]) != size - _HEADER_SIZE
        or size & 3
    ):
        return None
    start = _HEADER_SIZE
    for _ in range(MAX_PEEKED_ATTRIBUTES):
        if start == size:
            return None
        attribute = datagram[start] << 8 | datagram[start + 1]
        length = datagram[start + 2] << 8 | datagram[start + 3]
        start += 4
        stop = start + length
        if stop > size:
            return None
        if attribute == _USERNAME:
            colon = datagram.find(b":", start, stop)
            return datagram[start:colon] if colon > start else None
        start = stop + 3 & ~3
    return None
