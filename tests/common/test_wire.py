import pytest

from antiphon_common.errors import DecodeError
from antiphon_common.wire import Reader, Writer

SIZES = (8, 16, 24, 32, 48, 64)


@pytest.mark.parametrize("bits", SIZES)
def test_reading_inverts_writing(bits: int) -> None:
    for value in (0, 1, 2**bits - 1):
        writer = Writer()
        getattr(writer, f"push_uint{bits}")(value)
        assert writer.getvalue() == value.to_bytes(bits // 8, "big")
        assert getattr(Reader(writer.getvalue()), f"pull_uint{bits}")() == value


@pytest.mark.parametrize("bits", SIZES)
def test_reading_past_the_end_raises_an_error_and_consumes_nothing(bits: int) -> None:
    reader = Reader(bytes(bits // 8 - 1))
    with pytest.raises(DecodeError):
        getattr(reader, f"pull_uint{bits}")()
    assert reader.remaining == bits // 8 - 1


@pytest.mark.parametrize("length_bytes", [1, 2, 3])
def test_blocks_are_prefixed_with_their_length(length_bytes: int) -> None:
    writer = Writer()
    writer.push_block(b"abc", length_bytes)
    writer.push_bytes(b"rest")
    assert len(writer) == length_bytes + 7
    reader = Reader(memoryview(writer.getvalue()))
    assert reader.pull_block(length_bytes) == b"abc"
    assert reader.pull_rest() == b"rest"
    reader.expect_end()


def test_a_block_longer_than_its_buffer_is_an_error() -> None:
    with pytest.raises(DecodeError):
        Reader(b"\x04abc").pull_block(1)


def test_bytes_left_at_the_end_are_an_error() -> None:
    with pytest.raises(DecodeError, match="1 bytes too many"):
        Reader(b"x").expect_end()
