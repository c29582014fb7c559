"""Our certificate, and the check of the peer's against the fingerprints of its SDP (RFC 8122 §5)."""

import datetime
import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import NameOID

from antiphon_common.control import Fingerprint
from antiphon_common.errors import DecodeError
from antiphon_transceiver.dtls.alerts import AlertDescription, CertificateMismatchError, HandshakeError
from antiphon_transceiver.dtls.suites import PeerKey, check_public_key
from antiphon_transceiver.dtls.x509 import find_public_key_info

FINGERPRINT_HASHES = {"sha-512": hashlib.sha512, "sha-384": hashlib.sha384, "sha-256": hashlib.sha256}
"""Strongest first: of several hash functions the strongest decides (RFC 8122 §5.1)."""

NOT_BEFORE = datetime.datetime(2000, 1, 1)
NOT_AFTER = datetime.datetime(9999, 12, 31, 23, 59, 59)
"""No well-defined end (RFC 5280 §4.1.2.5). What vouches for the certificate is the SDP, not a date; and a fixed date
needs no clock and tells nobody when this process began."""


class Certificate(NamedTuple):
    """A certificate of ours with its key."""

    der: bytes
    private_key: ec.EllipticCurvePrivateKey

    @classmethod
    def generate(cls) -> Self:
        """Make a self-signed ECDSA P-256 certificate out of the library's entropy; done once, before any core runs."""
        private_key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "antiphon")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(private_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOT_BEFORE)
            .not_valid_after(NOT_AFTER)
            .sign(private_key, SHA256())
        )
        return cls(certificate.public_bytes(Encoding.DER), private_key)

    def fingerprint(self, algorithm: str = "sha-256") -> Fingerprint:
        """Return the digest for the SDP; `algorithm` is one of `FINGERPRINT_HASHES`."""
        return fingerprint_of(self.der, algorithm)

    def __repr__(self) -> str:
        return f"Certificate({self.fingerprint().value})"


def fingerprint_of(der: bytes, algorithm: str) -> Fingerprint:
    """Return the digest of any certificate; raise KeyError for a hash function that is not supported."""
    return Fingerprint(algorithm, FINGERPRINT_HASHES[algorithm](der).digest().hex(":").upper())


def check_fingerprint(der: bytes, announced: Sequence[Fingerprint]) -> None:
    """Raise CertificateMismatchError unless the certificate is one of those announced.

    Only the fingerprints of the strongest supported hash function count, and one of them must match (RFC 8122 §5.1).
    """
    values: dict[str, set[str]] = {}
    for fingerprint in announced:
        values.setdefault(fingerprint.algorithm.lower(), set()).add(fingerprint.value.upper())
    algorithm = next((name for name in FINGERPRINT_HASHES if name in values), None)
    if algorithm is None:
        raise CertificateMismatchError("no fingerprint with a supported hash function was announced")
    if fingerprint_of(der, algorithm).value not in values[algorithm]:
        raise CertificateMismatchError(f"the certificate does not match the announced {algorithm} fingerprint")


def load_public_key(der: bytes) -> PeerKey:
    """Return the key in a peer's certificate; raise HandshakeError when there is none that we can use."""
    try:
        key = load_der_public_key(find_public_key_info(der))
    except (ValueError, UnsupportedAlgorithm, DecodeError):
        raise HandshakeError(AlertDescription.BAD_CERTIFICATE, "the peer's certificate cannot be read") from None
    return check_public_key(key)
