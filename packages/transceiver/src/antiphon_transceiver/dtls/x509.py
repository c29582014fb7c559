"""Finds the public key in a certificate, and checks nothing else in it.

The fingerprint in the SDP covers every byte of the certificate (RFC 8122 §5), so names, dates, serial number, version,
extensions and the issuer's signature prove nothing more. Embedded stacks get them wrong: mbedTLS before 3.5 writes
NULL parameters of ECDSA algorithms, others negative serial numbers or dates in the past. Strict parsers refuse those.
"""

from antiphon_common.errors import DecodeError
from antiphon_common.wire import Reader

SEQUENCE = 0x30
VERSION = 0xA0
"""The tag of the version, which is absent in a certificate of version 1 (RFC 5280 §4.1.2.1)."""

FIELDS_BEFORE_KEY = 5
"""Serial number, signature algorithm, issuer, validity, subject (RFC 5280 §4.1)."""

MAX_LENGTH_BYTES = 4
"""Bytes of the longest DER length accepted. A certificate in a handshake message needs at most three."""


def find_public_key_info(der: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo of a certificate, as DER.

    Raises:
        DecodeError: The certificate is malformed or has no key at the place of RFC 5280 §4.1.
    """
    reader = Reader(der)
    certificate = _pull_sequence(reader)
    reader.expect_end()
    fields = Reader(_pull_sequence(Reader(certificate)))
    tag, _, _ = _pull_element(fields)
    for _ in range(FIELDS_BEFORE_KEY - (tag != VERSION)):
        _pull_element(fields)
    tag, header, content = _pull_element(fields)
    if tag != SEQUENCE:
        raise DecodeError("no public key where a certificate has it")
    return header + content


def _pull_sequence(reader: Reader) -> bytes:
    tag, _, content = _pull_element(reader)
    if tag != SEQUENCE:
        raise DecodeError(f"a DER element of tag {tag:#04x}, not a sequence")
    return content


def _pull_element(reader: Reader) -> tuple[int, bytes, bytes]:
    """Return the tag, the bytes of tag and length, and the content. A length may have more bytes than it needs."""
    tag, first = reader.pull_uint8(), reader.pull_uint8()
    if first < 0x80:
        return tag, bytes((tag, first)), reader.pull_bytes(first)
    size = first & 0x7F
    if not 0 < size <= MAX_LENGTH_BYTES:
        raise DecodeError("a DER length of no or too many bytes")
    length = reader.pull_bytes(size)
    return tag, bytes((tag, first)) + length, reader.pull_bytes(int.from_bytes(length, "big"))
