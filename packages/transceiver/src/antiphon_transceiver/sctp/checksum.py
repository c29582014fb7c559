"""CRC32c, the checksum of SCTP packets (RFC 9260 §6.8 and Appendix A)."""

from collections.abc import Callable
from typing import cast

import google_crc32c

CHECKSUM_OFFSET = 8
CHECKSUM_SIZE = 4

_crc32c = cast(Callable[[bytes], int], google_crc32c.value)


def checksum(packet: bytes) -> bytes:
    """Return the checksum of a packet, four bytes. Those at `CHECKSUM_OFFSET` count as zero."""
    blank = packet[:CHECKSUM_OFFSET] + bytes(CHECKSUM_SIZE) + packet[CHECKSUM_OFFSET + CHECKSUM_SIZE :]
    return crc32c(blank)


def crc32c(data: bytes) -> bytes:
    """Return the CRC32c of `data` as it is sent: least significant byte first."""
    return _crc32c(data).to_bytes(CHECKSUM_SIZE, "little")
