import pytest

from antiphon_common.errors import DecodeError
from antiphon_transceiver.rtp import OtherPayloadError, RedEncoder, RedundantBlock, decode_red
from antiphon_transceiver.rtp.red import MAX_AGE, MAX_PAYLOAD

OPUS = 111


def block(ticks: int, size: int, payload_type: int = OPUS) -> bytes:
    """Return the header of a redundant block as in RFC 2198 §3."""
    return bytes((0x80 | payload_type, ticks >> 6, (ticks & 0x3F) << 2 | size >> 8, size & 0xFF))


def test_a_payload_carries_the_previous_ones_as_redundant_blocks() -> None:
    data = block(1920, 3) + block(960, 2) + bytes((OPUS,)) + b"one" + b"22" + b"three"
    assert decode_red(data, OPUS) == (b"three", [RedundantBlock(1920, b"one"), RedundantBlock(960, b"22")])
    assert decode_red(bytes((OPUS,)) + b"alone", OPUS) == (b"alone", [])


def test_empty_blocks_and_blocks_of_other_payload_types_are_ignored() -> None:
    data = block(1920, 3, payload_type=0) + block(960, 0) + bytes((OPUS,)) + b"one" + b"own"
    assert decode_red(data, OPUS) == (b"own", [])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        block(960, 4),
        block(960, 4)[:3],
        block(960, 4) + bytes((OPUS,)) + b"123",
        bytes((0,)) + b"G.711",
        block(960, 0) * 9 + bytes((OPUS,)) + b"own",
    ],
)
def test_malformed_red_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_red(data, OPUS)


@pytest.mark.parametrize("offsets", [(), (1,), (1, 2), (3,), (3, 6)])
def test_decoding_inverts_encoding_of_red(offsets: tuple[int, ...]) -> None:
    """A new stream has fewer redundant blocks."""
    encoder = RedEncoder(OPUS)
    payloads = [bytes((index,)) * (20 + index) for index in range(9)]
    for index, payload in enumerate(payloads):
        data = encoder.encode(payload, (1 << 32) - 1000 + index * 960, offsets)
        repeated = sorted({min(offset, index) for offset in offsets} - {0}, reverse=True)
        assert decode_red(data, OPUS) == (
            payload,
            [RedundantBlock(ago * 960, payloads[index - ago]) for ago in repeated],
        )


def test_redundant_blocks_are_encoded_across_the_wrap_of_timestamps() -> None:
    encoder = RedEncoder(OPUS)
    encoder.remember(b"before", 0xFFFFFFFF)
    assert decode_red(encoder.encode(b"after", 959, (1,)), OPUS) == (b"after", [RedundantBlock(960, b"before")])


def test_payloads_too_old_or_too_long_are_not_sent_as_redundant_blocks() -> None:
    encoder = RedEncoder(OPUS)
    encoder.remember(b"old", 0)
    assert decode_red(encoder.encode(b"new", MAX_AGE + 1, (1,)), OPUS) == (b"new", [])
    encoder.remember(bytes(MAX_PAYLOAD - 9), MAX_AGE + 961)
    assert decode_red(encoder.encode(b"ten bytes.", MAX_AGE + 1921, (1,)), OPUS) == (b"ten bytes.", [])


def test_the_oldest_longer_packet_within_the_maximum_age_is_repeated() -> None:
    encoder = RedEncoder(OPUS)
    for index in range(8):
        data = encoder.encode(bytes((index,)), index * 2880, (3, 6))
    assert decode_red(data, OPUS) == (bytes((7,)), [RedundantBlock(5760, bytes((5,)))])


def test_a_primary_block_of_another_type_differs_from_malformed_red() -> None:
    """One example is a telephone event with redundant audio."""
    with pytest.raises(OtherPayloadError):
        decode_red(b"\xef\x0f\x00\x02" + b"\x7e" + b"ab" + b"\x05\x0a\x03\x20", 111)
    with pytest.raises(DecodeError) as raised:
        decode_red(b"\xef\x0f", 111)
    assert not isinstance(raised.value, OtherPayloadError)
