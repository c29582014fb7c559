"""SCTP packets: the common header, its checksum, and chunks (RFC 9260 §3)."""

from collections.abc import Collection, Sequence
from itertools import islice
from struct import Struct
from typing import NamedTuple, Self, cast

from antiphon_common.errors import DecodeError
from antiphon_transceiver.sctp.checksum import CHECKSUM_OFFSET, checksum, crc32c
from antiphon_transceiver.sctp.chunks import Chunk, ChunkType, ForwardTsn, Sack, Shutdown, decode_chunks

HEADER_SIZE = 12

MAX_CHUNKS = 64
"""Chunks of a packet that are decoded. 1,200 bytes hold 59 of the smallest DATA chunks, or 297 chunks without value."""

_HEADER = Struct("!HHII")


class SctpPacket(NamedTuple):
    """A packet and its chunks (RFC 9260 §3). `decode` one from a datagram; `ignored` has the chunks not to handle."""

    source_port: int
    destination_port: int
    tag: int
    """The verification tag, which the receiver chose for this association."""
    chunks: Sequence[Chunk]

    def encode(self) -> bytes:
        """Return the packet with its checksum."""
        return encode_packet(self.source_port, self.destination_port, self.tag, [c.encode() for c in self.chunks])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the packet of a datagram. Chunks after the first `MAX_CHUNKS` are dropped.

        Raises:
            DecodeError: The checksum is wrong, a chunk is malformed, or there is none.
        """
        if len(data) < HEADER_SIZE:
            raise DecodeError("a packet without a header")
        if data[CHECKSUM_OFFSET:HEADER_SIZE] != checksum(data):
            raise DecodeError("a packet with a wrong checksum")
        source, destination, tag, _ = _HEADER.unpack_from(data)
        chunks = list(islice(decode_chunks(data, HEADER_SIZE), MAX_CHUNKS))
        if not chunks:
            raise DecodeError("a packet without chunks")
        return cls(source, destination, tag, chunks)

    def ignored(self) -> Collection[int]:
        """Return the indices of the chunks that must not be handled.

        Those are chunks that must be alone in a packet, a COOKIE ECHO that is not the first chunk (RFC 9260 §6.10),
        and all but the newest SACK, SHUTDOWN and FORWARD TSN.
        """
        if len(self.chunks) == 1:
            return ()
        ignored: set[int] = set()
        newest: dict[int, tuple[int, int]] = {}
        """By type, the index of the newest chunk and its TSN."""
        for index, chunk in enumerate(self.chunks):
            if chunk.type in _ALONE or (chunk.type == ChunkType.COOKIE_ECHO and index):
                ignored.add(index)
            elif type(chunk) in _CUMULATIVE:
                tsn = cast(Sack | Shutdown | ForwardTsn, chunk).cumulative_tsn
                other = newest.get(chunk.type)
                if other is not None and (tsn - other[1]) & 0xFFFFFFFF >= 1 << 31:
                    ignored.add(index)
                    continue
                if other is not None:
                    ignored.add(other[0])
                newest[chunk.type] = index, tsn
        return ignored


_ALONE = frozenset({ChunkType.INIT, ChunkType.INIT_ACK, ChunkType.SHUTDOWN_COMPLETE})
_CUMULATIVE = frozenset({Sack, Shutdown, ForwardTsn})


def encode_packet(source_port: int, destination_port: int, tag: int, chunks: Sequence[bytes]) -> bytes:
    """Return a packet of encoded chunks."""
    head, body = _HEADER.pack(source_port, destination_port, tag, 0), b"".join(chunks)
    return head[:CHECKSUM_OFFSET] + crc32c(head + body) + body
