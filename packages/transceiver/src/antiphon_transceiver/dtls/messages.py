"""Handshake messages of DTLS 1.2: the header of fragments (RFC 6347 §4.2.2), and each body.

Each body has `encode` and `decode`, which invert each other. `decode` raises DecodeError for a malformed body.
"""

from enum import IntEnum
from typing import NamedTuple, Self

import msgspec

from antiphon_common.errors import DecodeError
from antiphon_common.wire import Reader, Writer
from antiphon_transceiver.dtls.extensions import decode_extensions, encode_extensions, split_uint16

HEADER_SIZE = 12
RANDOM_SIZE = 32
CURVE_TYPE_NAMED = 3
COMPRESSION_NULL = b"\0"
CERTIFICATE_TYPE_RSA = 1
CERTIFICATE_TYPE_ECDSA = 64
MAX_CERTIFICATES = 16
"""Certificates decoded of one chain. Only the first is used; real chains have up to four."""

CERTIFICATE_TYPES = bytes((CERTIFICATE_TYPE_ECDSA, CERTIFICATE_TYPE_RSA))


class HandshakeType(IntEnum):
    """The type of a handshake message (RFC 6347 §4.3.2)."""

    HELLO_REQUEST = 0
    CLIENT_HELLO = 1
    SERVER_HELLO = 2
    HELLO_VERIFY_REQUEST = 3
    CERTIFICATE = 11
    SERVER_KEY_EXCHANGE = 12
    CERTIFICATE_REQUEST = 13
    SERVER_HELLO_DONE = 14
    CERTIFICATE_VERIFY = 15
    CLIENT_KEY_EXCHANGE = 16
    FINISHED = 20


class Fragment(NamedTuple):
    """A fragment of a message (RFC 6347 §4.2.3). `length` is that of the whole body, `sequence` is message_seq."""

    type: int
    length: int
    sequence: int
    offset: int
    data: bytes

    def encode(self) -> bytes:
        """Return the fragment with its header of 12 bytes."""
        head = bytes((self.type,)) + self.length.to_bytes(3, "big") + self.sequence.to_bytes(2, "big")
        return head + self.offset.to_bytes(3, "big") + len(self.data).to_bytes(3, "big") + self.data

    @classmethod
    def pull(cls, reader: Reader) -> Self:
        """Read one fragment; a record may hold several.

        Raises:
            DecodeError: The fragment is cut short, or ends after the end of its message.
        """
        head = int.from_bytes(reader.pull_bytes(HEADER_SIZE), "big")  # one number is faster than five reads
        message_type, length, sequence = head >> 88, head >> 64 & 0xFFFFFF, head >> 48 & 0xFFFF
        offset = head >> 24 & 0xFFFFFF
        data = reader.pull_bytes(head & 0xFFFFFF)
        if offset + len(data) > length:
            raise DecodeError("a fragment reaches past the end of its message")
        return cls(message_type, length, sequence, offset, data)


class HandshakeMessage(NamedTuple):
    """A whole handshake message. `sequence` is message_seq: it counts the messages of one sender in a handshake."""

    type: int
    sequence: int
    body: bytes

    def fragment(self, offset: int, size: int) -> Fragment:
        """Return at most `size` bytes of the body from `offset` on, as a fragment."""
        return Fragment(self.type, len(self.body), self.sequence, offset, self.body[offset : offset + size])

    def encode(self) -> bytes:
        """Return the message in one fragment, as the transcript takes it (RFC 6347 §4.2.6)."""
        return self.fragment(0, len(self.body)).encode()


class ClientHello(msgspec.Struct, frozen=True):
    """ClientHello (RFC 6347 §4.2.1). `extensions` are in the order of the wire."""

    version: int
    random: bytes
    session_id: bytes
    cookie: bytes
    cipher_suites: tuple[int, ...]
    compression_methods: bytes
    extensions: dict[int, bytes]

    def encode(self) -> bytes:
        writer = Writer()
        writer.push_uint16(self.version)
        writer.push_bytes(self.random)
        writer.push_block(self.session_id, 1)
        writer.push_block(self.cookie, 1)
        writer.push_block(b"".join(suite.to_bytes(2, "big") for suite in self.cipher_suites), 2)
        writer.push_block(self.compression_methods, 1)
        _push_extensions(writer, self.extensions)
        return writer.getvalue()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        reader = Reader(body)
        version, random = reader.pull_uint16(), reader.pull_bytes(RANDOM_SIZE)
        session_id, cookie = reader.pull_block(1), reader.pull_block(1)
        cipher_suites = split_uint16(reader.pull_block(2))
        compression_methods = reader.pull_block(1)
        extensions = _pull_extensions(reader)
        return cls(version, random, session_id, cookie, cipher_suites, compression_methods, extensions)


class ServerHello(msgspec.Struct, frozen=True):
    """ServerHello (RFC 5246 §7.4.1.3)."""

    version: int
    random: bytes
    session_id: bytes
    cipher_suite: int
    compression_method: int
    extensions: dict[int, bytes]

    def encode(self) -> bytes:
        writer = Writer()
        writer.push_uint16(self.version)
        writer.push_bytes(self.random)
        writer.push_block(self.session_id, 1)
        writer.push_uint16(self.cipher_suite)
        writer.push_uint8(self.compression_method)
        _push_extensions(writer, self.extensions)
        return writer.getvalue()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        reader = Reader(body)
        version, random = reader.pull_uint16(), reader.pull_bytes(RANDOM_SIZE)
        session_id = reader.pull_block(1)
        cipher_suite, compression_method = reader.pull_uint16(), reader.pull_uint8()
        return cls(version, random, session_id, cipher_suite, compression_method, _pull_extensions(reader))


class HelloVerifyRequest(msgspec.Struct, frozen=True):
    """HelloVerifyRequest (RFC 6347 §4.2.1). Its version is not the one that will be negotiated."""

    version: int
    cookie: bytes

    def encode(self) -> bytes:
        writer = Writer()
        writer.push_uint16(self.version)
        writer.push_block(self.cookie, 1)
        return writer.getvalue()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        reader = Reader(body)
        message = cls(reader.pull_uint16(), reader.pull_block(1))
        reader.expect_end()
        return message


class CertificateChain(msgspec.Struct, frozen=True):
    """The Certificate message (RFC 5246 §7.4.2): certificates as DER, the sender's own first."""

    certificates: tuple[bytes, ...]

    def encode(self) -> bytes:
        chain = Writer()
        for certificate in self.certificates:
            chain.push_block(certificate, 3)
        writer = Writer()
        writer.push_block(chain.getvalue(), 3)
        return writer.getvalue()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Invert `encode`.

        Raises:
            DecodeError: The body is malformed, or has more than `MAX_CERTIFICATES` certificates.
        """
        reader = Reader(body)
        chain = Reader(reader.pull_block(3))
        reader.expect_end()
        certificates: list[bytes] = []
        while chain.remaining:
            if len(certificates) == MAX_CERTIFICATES:
                raise DecodeError(f"a chain of more than {MAX_CERTIFICATES} certificates")
            certificates.append(chain.pull_block(3))
        return cls(tuple(certificates))


class ServerKeyExchange(msgspec.Struct, frozen=True):
    """ServerKeyExchange (RFC 8422 §5.4) with a named curve."""

    group: int
    public: bytes
    scheme: int
    signature: bytes

    @property
    def parameters(self) -> bytes:
        """ServerECDHParams. The signature covers both randoms and these."""
        return encode_ecdh_parameters(self.group, self.public)

    def encode(self) -> bytes:
        return self.parameters + CertificateVerify(self.scheme, self.signature).encode()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Invert `encode`.

        Raises:
            DecodeError: The body is malformed, or has no named curve.
        """
        reader = Reader(body)
        if reader.pull_uint8() != CURVE_TYPE_NAMED:
            raise DecodeError("only named curves are in use")
        group, public = reader.pull_uint16(), reader.pull_block(1)
        signed = CertificateVerify.decode(reader.pull_rest())
        return cls(group, public, signed.scheme, signed.signature)


def encode_ecdh_parameters(group: int, public: bytes) -> bytes:
    """Return ServerECDHParams (RFC 8422 §5.4)."""
    writer = Writer()
    writer.push_uint8(CURVE_TYPE_NAMED)
    writer.push_uint16(group)
    writer.push_block(public, 1)
    return writer.getvalue()


class CertificateRequest(msgspec.Struct, frozen=True):
    """CertificateRequest (RFC 5246 §7.4.4). `authorities` stay encoded; self-signed certificates have none."""

    certificate_types: bytes
    signature_schemes: tuple[int, ...]
    authorities: bytes = b""

    def encode(self) -> bytes:
        writer = Writer()
        writer.push_block(self.certificate_types, 1)
        writer.push_block(b"".join(scheme.to_bytes(2, "big") for scheme in self.signature_schemes), 2)
        writer.push_block(self.authorities, 2)
        return writer.getvalue()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        reader = Reader(body)
        message = cls(reader.pull_block(1), split_uint16(reader.pull_block(2)), reader.pull_block(2))
        reader.expect_end()
        return message


class ClientKeyExchange(msgspec.Struct, frozen=True):
    """ClientKeyExchange (RFC 8422 §5.7)."""

    public: bytes

    def encode(self) -> bytes:
        writer = Writer()
        writer.push_block(self.public, 1)
        return writer.getvalue()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        reader = Reader(body)
        message = cls(reader.pull_block(1))
        reader.expect_end()
        return message


class CertificateVerify(msgspec.Struct, frozen=True):
    """CertificateVerify (RFC 5246 §7.4.8); also the signature at the end of ServerKeyExchange."""

    scheme: int
    signature: bytes

    def encode(self) -> bytes:
        writer = Writer()
        writer.push_uint16(self.scheme)
        writer.push_block(self.signature, 2)
        return writer.getvalue()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        reader = Reader(body)
        message = cls(reader.pull_uint16(), reader.pull_block(2))
        reader.expect_end()
        return message


def _push_extensions(writer: Writer, extensions: dict[int, bytes]) -> None:
    if extensions:
        writer.push_block(encode_extensions(extensions), 2)


def _pull_extensions(reader: Reader) -> dict[int, bytes]:
    """Read the block of extensions, which may be absent (RFC 5246 §7.4.1.2)."""
    if not reader.remaining:
        return {}
    extensions = decode_extensions(reader.pull_block(2))
    reader.expect_end()
    return extensions
