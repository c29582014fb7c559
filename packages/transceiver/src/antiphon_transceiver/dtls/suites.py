"""What is negotiated: cipher suites, key exchange groups and signature schemes. Each list is best first."""

from enum import IntEnum
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256

from antiphon_transceiver.dtls.alerts import AlertDescription, HandshakeError


class CipherSuite(IntEnum):
    """RFC 5289 §3.2."""

    ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 = 0xC02B
    ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 = 0xC02C


EMPTY_RENEGOTIATION_INFO_SCSV = 0x00FF
"""No suite but a signal: this client knows RFC 5746 (§3.3)."""


class SuiteParameters(NamedTuple):
    """Lengths are in bytes; `hash_name` is that of the PRF."""

    key_length: int
    salt_length: int
    hash_name: str


SUITES = {
    CipherSuite.ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: SuiteParameters(16, 4, "sha256"),
    CipherSuite.ECDHE_ECDSA_WITH_AES_256_GCM_SHA384: SuiteParameters(32, 4, "sha384"),
}


class NamedGroup(IntEnum):
    """RFC 8422 §5.1.1."""

    SECP256R1 = 23
    X25519 = 29


GROUPS = (NamedGroup.X25519, NamedGroup.SECP256R1)


class SignatureScheme(IntEnum):
    """RFC 8446 §4.2.3; in DTLS 1.2 the two bytes are hash and signature algorithm (RFC 5246 §7.4.1.4.1)."""

    ECDSA_SECP256R1_SHA256 = 0x0403


SIGNATURE_SCHEMES = (SignatureScheme.ECDSA_SECP256R1_SHA256,)


def sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """Sign with our certificate's key, the same bytes every time (RFC 6979)."""
    return key.sign(data, ec.ECDSA(SHA256(), deterministic_signing=True))


def check_public_key(key: PublicKeyTypes) -> None:
    """Raise HandshakeError unless one of our signature schemes can use the key of the peer's certificate."""
    if not (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)):
        raise HandshakeError(AlertDescription.UNSUPPORTED_CERTIFICATE, "the peer's key is not ECDSA on P-256")


def verify(scheme: int, key: PublicKeyTypes, signature: bytes, data: bytes) -> None:
    """Raise HandshakeError unless the peer signed `data` in a scheme that we offered."""
    if scheme not in SIGNATURE_SCHEMES or not isinstance(key, ec.EllipticCurvePublicKey):
        raise HandshakeError(AlertDescription.ILLEGAL_PARAMETER, f"signature scheme {scheme:#06x} was not offered")
    try:
        key.verify(signature, data, ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise HandshakeError(AlertDescription.DECRYPT_ERROR, "a signature does not verify") from None
