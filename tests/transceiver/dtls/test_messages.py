from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from antiphon_common.errors import DecodeError
from antiphon_common.wire import Reader
from antiphon_transceiver.dtls import messages as m

BODIES: list[Any] = [
    m.ClientHello(0xFEFD, bytes(32), b"id", b"cookie", (0xC02B, 0xFF), b"\0\1", {23: b"", 10: b"\0\2\0\x1d"}),
    m.ServerHello(0xFEFD, bytes(32), b"", 0xC02B, 0, {}),
    m.ServerHello(0xFEFD, bytes(32), b"", 0xC02B, 0, {0xFF01: b"\0"}),
    m.HelloVerifyRequest(0xFEFF, b"cookie"),
    m.CertificateChain((b"own", b"issuer")),
    m.CertificateChain(()),
    m.ServerKeyExchange(29, b"p" * 32, 0x0403, b"signature"),
    m.CertificateRequest(b"\x40\x01", (0x0403, 0x0804), b"\0\1n"),
    m.ClientKeyExchange(b"p" * 32),
    m.CertificateVerify(0x0403, b"signature"),
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_decoding_inverts_encoding_of_message_bodies(body: Any) -> None:
    assert type(body).decode(body.encode()) == body


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_a_body_cut_short_or_too_long_is_a_decode_error(body: Any) -> None:
    decode: Callable[[bytes], Any] = type(body).decode
    encoded = body.encode()
    for cut in range(len(encoded)):
        if cut != end_without_extensions(body):
            with pytest.raises(DecodeError):
                decode(encoded[:cut])
    with pytest.raises(DecodeError):
        decode(encoded + b"\0")


def end_without_extensions(body: Any) -> int | None:
    """Return another valid end of a hello, before its optional block of extensions."""
    if not getattr(body, "extensions", {}):
        return None
    return len(msgspec.structs.replace(body, extensions={}).encode())


def test_a_repeated_extension_is_a_decode_error() -> None:
    hello = m.ServerHello(0xFEFD, bytes(32), b"", 0xC02B, 0, {}).encode()
    with pytest.raises(DecodeError, match="twice"):
        m.ServerHello.decode(hello + b"\0\x08" + 2 * b"\0\x17\0\0")


def test_decoding_inverts_encoding_of_fragments() -> None:
    message = m.HandshakeMessage(m.HandshakeType.CERTIFICATE, 3, b"0123456789")
    encoded = message.fragment(0, 4).encode() + message.fragment(4, 100).encode()
    reader = Reader(encoded)
    assert m.Fragment.pull(reader) == m.Fragment(11, 10, 3, 0, b"0123")
    assert m.Fragment.pull(reader) == m.Fragment(11, 10, 3, 4, b"456789")
    assert not reader.remaining


def test_a_fragment_past_the_end_of_its_message_is_a_decode_error() -> None:
    with pytest.raises(DecodeError, match="past the end"):
        m.Fragment.pull(Reader(m.Fragment(11, 10, 0, 8, b"abc").encode()))
