"""SCTP packets: the common header, its checksum, and chunks (RFC 9260 §3)."""

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple, Self

from antiphon_common.errors import DecodeError
from antiphon_transceiver.sctp.checksum import CHECKSUM_OFFSET, checksum, crc32c
from antiphon_transceiver.sctp.chunks import Chunk, decode_chunks

HEADER_SIZE = 12

_HEADER = Struct("!HHII")


class Packet(NamedTuple):
    """A packet and its chunks (RFC 9260 §3)."""

    source_port: int
    destination_port: int
    tag: int
    """The verification tag: the number the receiver chose for this association."""
    chunks: Sequence[Chunk]

    def encode(self) -> bytes:
        return encode_packet(self.source_port, self.destination_port, self.tag, [c.encode() for c in self.chunks])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the packet; raise DecodeError unless checksum and every chunk are good."""
        if len(data) < HEADER_SIZE:
            raise DecodeError("a packet without a header")
        if data[CHECKSUM_OFFSET:HEADER_SIZE] != checksum(data):
            raise DecodeError("a packet with a wrong checksum")
        source, destination, tag, _ = _HEADER.unpack_from(data)
        chunks = list(decode_chunks(data, HEADER_SIZE))
        if not chunks:
            raise DecodeError("a packet without chunks")
        return cls(source, destination, tag, chunks)


def encode_packet(source_port: int, destination_port: int, tag: int, chunks: Sequence[bytes]) -> bytes:
    """Return a packet of encoded chunks."""
    head, body = _HEADER.pack(source_port, destination_port, tag, 0), b"".join(chunks)
    return head[:CHECKSUM_OFFSET] + crc32c(head + body) + body
