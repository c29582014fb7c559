"""Hello extensions: the block of all, and the contents of each that we support."""

import struct
from collections.abc import Iterable, Mapping
from enum import IntEnum

from antiphon_common.errors import DecodeError
from antiphon_common.wire import Reader, Writer

POINT_FORMAT_UNCOMPRESSED = 0

MAX_EXTENSIONS = 64
"""Extensions decoded of one hello; browsers send fifteen."""


class ExtensionType(IntEnum):
    """The types of extensions that we support. Others are decoded and ignored."""

    SUPPORTED_GROUPS = 10  # RFC 8422 §5.1.1
    EC_POINT_FORMATS = 11  # RFC 8422 §5.1.2
    SIGNATURE_ALGORITHMS = 13  # RFC 5246 §7.4.1.4.1
    USE_SRTP = 14  # RFC 5764 §4.1.1
    EXTENDED_MASTER_SECRET = 23  # RFC 7627 §5.1
    RENEGOTIATION_INFO = 0xFF01  # RFC 5746 §3.2


def encode_extensions(extensions: Mapping[int, bytes]) -> bytes:
    """Return the block of extensions without its length, in the order of the mapping."""
    writer = Writer()
    for extension_type, data in extensions.items():
        writer.push_uint16(extension_type)
        writer.push_block(data, 2)
    return writer.getvalue()


def decode_extensions(block: bytes) -> dict[int, bytes]:
    """Return contents by type, in the order of the wire.

    Raises:
        DecodeError: The block is malformed, repeats a type (RFC 5246 §7.4.1.4), or has more than `MAX_EXTENSIONS`.
    """
    reader = Reader(block)
    extensions: dict[int, bytes] = {}
    while reader.remaining:
        extension_type = reader.pull_uint16()
        if extension_type in extensions:
            raise DecodeError(f"extension {extension_type} comes twice")
        if len(extensions) == MAX_EXTENSIONS:
            raise DecodeError(f"more than {MAX_EXTENSIONS} extensions")
        extensions[extension_type] = reader.pull_block(2)
    return extensions


def encode_uint16_list(values: Iterable[int]) -> bytes:
    """Return the contents of supported_groups or signature_algorithms."""
    writer = Writer()
    writer.push_block(b"".join(value.to_bytes(2, "big") for value in values), 2)
    return writer.getvalue()


def decode_uint16_list(data: bytes) -> tuple[int, ...]:
    """Return the 16-bit numbers after a 16-bit length.

    Raises:
        DecodeError: The length does not fit the data.
    """
    reader = Reader(data)
    block = reader.pull_block(2)
    reader.expect_end()
    return split_uint16(block)


def split_uint16(block: bytes) -> tuple[int, ...]:
    """Return the 16-bit numbers of a block.

    Raises:
        DecodeError: The block has an odd length.
    """
    if len(block) % 2:
        raise DecodeError("a list of 16-bit numbers has an odd length")
    return struct.unpack(f"!{len(block) // 2}H", block)


def encode_block(data: bytes) -> bytes:
    """Return the contents of ec_point_formats or renegotiation_info: bytes after an 8-bit length."""
    writer = Writer()
    writer.push_block(data, 1)
    return writer.getvalue()


def decode_block(data: bytes) -> bytes:
    """Return the bytes after an 8-bit length.

    Raises:
        DecodeError: The length does not fit the data.
    """
    reader = Reader(data)
    block = reader.pull_block(1)
    reader.expect_end()
    return block


def encode_use_srtp(profiles: Iterable[int], mki: bytes = b"") -> bytes:
    """Return the contents of use_srtp (RFC 5764 §4.1.1)."""
    return encode_uint16_list(profiles) + encode_block(mki)


def decode_use_srtp(data: bytes) -> tuple[tuple[int, ...], bytes]:
    """Return the profiles and the MKI (RFC 5764 §4.1.1).

    Raises:
        DecodeError: A length does not fit the data.
    """
    reader = Reader(data)
    profiles = split_uint16(reader.pull_block(2))
    mki = reader.pull_block(1)
    reader.expect_end()
    return profiles, mki
