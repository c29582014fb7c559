"""Every chunk is encoded and decoded, and malformed chunks are refused."""

import pytest

from antiphon_common.errors import DecodeError
from antiphon_transceiver.sctp import chunks
from antiphon_transceiver.sctp.chunks import Chunk, decode_chunks, encode_chunk
from antiphon_transceiver.sctp.parameters import Parameter

CHUNKS: list[Chunk] = [
    chunks.Data(0xFFFFFFFF, 7, 65535, 51, b"hello"),
    chunks.Data(1, 7, 0, 53, b"x", False, False, True, True),
    chunks.Init(1, 131072, 1024, 2048, 99, (Parameter(0xC000, b""), Parameter(0x8008, b"\x82\xc0\x00"))),
    chunks.InitAck(1, 131072, 1024, 2048, 99, (Parameter(7, b"cookie"),)),
    chunks.Sack(5, 1000),
    chunks.Sack(5, 1000, ((2, 3), (5, 5)), (4, 4, 9)),
    chunks.Heartbeat(b"\x00\x01\x00\x08abcd"),
    chunks.HeartbeatAck(b"odd"),
    chunks.Abort((Parameter(12, b"bye"),)),
    chunks.Abort((), True),
    chunks.Shutdown(77),
    chunks.ShutdownAck(),
    chunks.Error((Parameter(6, b"\xff\x00\x00\x04"),)),
    chunks.CookieEcho(b"cookie"),
    chunks.CookieAck(),
    chunks.ShutdownComplete(),
    chunks.ShutdownComplete(True),
    chunks.Reconfig((Parameter(13, bytes(14)), Parameter(16, bytes(8)))),
    chunks.ForwardTsn(12, ((1, 5), (3, 65535))),
    chunks.Unknown(0xBF, 3, b"later"),
]


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: type(chunk).__name__)
def test_decoding_inverts_encoding(chunk: Chunk) -> None:
    encoded = chunk.encode()
    assert len(encoded) % 4 == 0
    assert list(decode_chunks(encoded * 2)) == [chunk, chunk]


def test_a_data_chunk_from_the_wire_is_decoded() -> None:
    wire = bytes.fromhex("0003 0015 00000001 0002 0003 00000033 68656c6c6f 000000")
    assert list(decode_chunks(wire)) == [chunks.Data(1, 2, 3, 51, b"hello")]


@pytest.mark.parametrize(
    "wire",
    [
        b"\0\3\0",
        b"\0\3\0\3",
        b"\0\3\0\x20" + bytes(12),
        encode_chunk(0, 3, bytes(12)),
        encode_chunk(1, 0, bytes(15)),
        chunks.Init(0, 1, 1, 1, 1).encode(),
        chunks.Init(1, 1, 0, 1, 1).encode(),
        encode_chunk(1, 0, chunks.Init(1, 1, 1, 1, 1).encode()[4:] + b"\0\1\0\3"),
        encode_chunk(3, 0, bytes(8) + b"\0\1\0\0"),
        chunks.Sack(1, 1, ((3, 2),)).encode(),
        chunks.Sack(1, 1, ((2, 4), (4, 6))).encode(),
        chunks.Sack(1, 1, ((0, 4),)).encode(),
        encode_chunk(6, 0, b"\0\1"),
        encode_chunk(7, 0, b""),
        encode_chunk(192, 0, bytes(6)),
    ],
    ids=bytes.hex,
)
def test_malformed_chunks_are_a_decode_error(wire: bytes) -> None:
    with pytest.raises(DecodeError):
        list(decode_chunks(wire))
