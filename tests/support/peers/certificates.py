"""Certificates that are the same in every run, for tests that compare bytes."""

import functools
import hashlib

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from antiphon_transceiver.dtls import Certificate
from antiphon_transceiver.dtls.certificate import NOT_AFTER, NOT_BEFORE


@functools.cache
def certificate(name: str) -> Certificate:
    """Return the certificate of `name`. Its key is a hash of the name, so it is not secret."""
    scalar = int.from_bytes(hashlib.sha256(name.encode()).digest()[:31], "big") + 1
    private_key = ec.derive_private_key(scalar, ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private_key.public_key())
        .serial_number(1)
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .sign(private_key, SHA256(), ecdsa_deterministic=True)
    )
    return Certificate(signed.public_bytes(Encoding.DER), private_key)
