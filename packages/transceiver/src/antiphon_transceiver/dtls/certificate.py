"""Our certificate, and the check of the peer's certificate against the fingerprints of its SDP (RFC 8122 §5)."""

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
"""Strongest first: if fingerprints have several hash functions, the strongest decides (RFC 8122 §5.1)."""

NOT_BEFORE = datetime.datetime(2000, 1, 1)
NOT_AFTER = datetime.datetime(9999, 12, 31, 23, 59, 59)
"""The certificate has no well-defined expiry (RFC 5280 §4.1.2.5): the SDP authenticates it, not a date. Fixed dates
need no clock and do not reveal when the process started."""


class Certificate(NamedTuple):
    """A certificate of ours, as DER, with its private key.

    `generate` one for a process, put its `fingerprint` into each SDP, and pass it to each `DtlsEndpoint`.
    """

    der: bytes
    private_key: ec.EllipticCurvePrivateKey

    @classmethod
    def generate(cls) -> Self:
        """Return a new self-signed ECDSA P-256 certificate. Its entropy is that of the library."""
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
        """Return the fingerprint for the SDP; `algorithm` is a key of `FINGERPRINT_HASHES`.

        Raises:
            KeyError: The hash function is not supported.
        """
        return fingerprint_of(self.der, algorithm)

    def __repr__(self) -> str:
        return f"Certificate({self.fingerprint().value})"


def fingerprint_of(der: bytes, algorithm: str) -> Fingerprint:
    """Return the fingerprint of any certificate.

    Raises:
        KeyError: The hash function is not supported.
    """
    return Fingerprint(algorithm, FINGERPRINT_HASHES[algorithm](der).digest().hex(":").upper())


def check_fingerprint(der: bytes, announced: Sequence[Fingerprint]) -> None:
    """Check that a certificate matches one of the fingerprints announced in SDP.

    Only fingerprints of the strongest supported hash function count (RFC 8122 §5.1).

    Raises:
        CertificateMismatchError: None of them matches, or no hash function is supported.
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
    """Return the public key of a peer's certificate.

    Raises:
        HandshakeError: The certificate cannot be decoded, or its key is not supported.
    """
    try:
        key = load_der_public_key(find_public_key_info(der))
    except (ValueError, UnsupportedAlgorithm, DecodeError):
        raise HandshakeError(AlertDescription.BAD_CERTIFICATE, "the peer's certificate cannot be read") from None
    return check_public_key(key)
