import pytest

from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_transceiver.rtp import decode_extensions, encode_extensions

ONE_BYTE, TWO_BYTE = 0xBEDE, 0x1000


@pytest.mark.parametrize(
    ("elements", "profile"),
    [
        ({}, ONE_BYTE),
        ({1: b"\x85"}, ONE_BYTE),
        ({1: b"\x85", 14: bytes(16), 4: b"audio"}, ONE_BYTE),
        ({1: b""}, TWO_BYTE),
        ({1: bytes(17), 2: b"x"}, TWO_BYTE),
        ({15: b"x"}, TWO_BYTE),
        ({255: bytes(255)}, TWO_BYTE),
    ],
)
def test_encoding_uses_the_smallest_form(elements: dict[int, bytes], profile: int) -> None:
    encoded_profile, data = encode_extensions(elements)
    assert encoded_profile == profile
    assert len(data) % 4 == 0
    assert decode_extensions(profile, data) == elements


@pytest.mark.parametrize("elements", [{0: b"x"}, {256: b"x"}, {1: bytes(256)}])
def test_elements_without_an_encoding_are_refused(elements: dict[int, bytes]) -> None:
    with pytest.raises(LocalProtocolError):
        encode_extensions(elements)


@pytest.mark.parametrize(
    ("profile", "data", "elements"),
    [
        (ONE_BYTE, b"\0\0\x10a\0\x20b\0", {1: b"a", 2: b"b"}),
        (ONE_BYTE, b"\x10a\xf0\x20bcd", {1: b"a"}),  # id 15 ends the list (RFC 8285 §4.2)
        (0x100F, b"\x01\x01a\0\x02\0\0\0", {1: b"a", 2: b""}),
        (0xABCD, b"\x10abc", {}),
    ],
)
def test_padding_and_unknown_extension_profiles_are_read(profile: int, data: bytes, elements: dict[int, bytes]) -> None:
    assert decode_extensions(profile, data) == elements


@pytest.mark.parametrize(
    ("profile", "data"), [(ONE_BYTE, b"\x13abc"), (TWO_BYTE, b"\x01\x03ab"), (TWO_BYTE, b"\x01\x01a\x02")]
)
def test_elements_longer_than_the_extension_are_refused(profile: int, data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_extensions(profile, data)
