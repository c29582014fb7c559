"""Cipher suites, key exchange groups and signature schemes. Each list is in order of preference."""

from collections.abc import Callable, Collection
from enum import IntEnum
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

from antiphon_transceiver.dtls.alerts import AlertDescription, HandshakeError
from antiphon_transceiver.dtls.record import AesGcmRecords, ChaCha20Poly1305Records, RecordProtection

PeerKey = ec.EllipticCurvePublicKey | Ed25519PublicKey | rsa.RSAPublicKey
"""The types of public keys accepted in certificates of peers."""


class CipherSuite(IntEnum):
    """A cipher suite (RFC 5289 §3.2, RFC 7905 §3).

    Those with RSA are offered for servers that have an RSA certificate; our own server never chooses them.
    """

    ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 = 0xC02B
    ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 = 0xC02C
    ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 = 0xCCA9
    ECDHE_RSA_WITH_AES_128_GCM_SHA256 = 0xC02F
    ECDHE_RSA_WITH_AES_256_GCM_SHA384 = 0xC030
    ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 = 0xCCA8


EMPTY_RENEGOTIATION_INFO_SCSV = 0x00FF
"""The signalling suite of a client that supports RFC 5746 (§3.3)."""


class Cipher(NamedTuple):
    """The cipher of a suite. Lengths are in bytes; `hash_name` is the hash of the PRF.

    `protection` makes the `RecordProtection` of one direction from its key and salt.
    """

    key_length: int
    salt_length: int
    hash_name: str
    protection: Callable[[bytes, bytes], RecordProtection]


class SuiteParameters(NamedTuple):
    """The cipher of a suite, and the types of keys that the server's certificate may have. See `SUITES`."""

    cipher: Cipher
    key_types: tuple[type[PeerKey], ...]


_AES_128_GCM = Cipher(16, 4, "sha256", AesGcmRecords)
_AES_256_GCM = Cipher(32, 4, "sha384", AesGcmRecords)
_CHACHA20_POLY1305 = Cipher(32, 12, "sha256", ChaCha20Poly1305Records)
_ECDSA: tuple[type[PeerKey], ...] = (ec.EllipticCurvePublicKey, Ed25519PublicKey)  # RFC 8422 §2.2
_RSA: tuple[type[PeerKey], ...] = (rsa.RSAPublicKey,)

SUITES = {
    CipherSuite.ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: SuiteParameters(_AES_128_GCM, _ECDSA),
    CipherSuite.ECDHE_ECDSA_WITH_AES_256_GCM_SHA384: SuiteParameters(_AES_256_GCM, _ECDSA),
    CipherSuite.ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: SuiteParameters(_CHACHA20_POLY1305, _ECDSA),
    CipherSuite.ECDHE_RSA_WITH_AES_128_GCM_SHA256: SuiteParameters(_AES_128_GCM, _RSA),
    CipherSuite.ECDHE_RSA_WITH_AES_256_GCM_SHA384: SuiteParameters(_AES_256_GCM, _RSA),
    CipherSuite.ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256: SuiteParameters(_CHACHA20_POLY1305, _RSA),
}

OWN_SUITES = tuple(suite for suite, parameters in SUITES.items() if parameters.key_types is _ECDSA)
"""The suites that our server can choose: its certificate is ECDSA."""


class NamedGroup(IntEnum):
    """A group for the key exchange (RFC 8422 §5.1.1)."""

    SECP256R1 = 23
    SECP384R1 = 24
    SECP521R1 = 25
    X25519 = 29


GROUPS = (NamedGroup.X25519, NamedGroup.SECP256R1, NamedGroup.SECP384R1, NamedGroup.SECP521R1)
"""The last two are offered for servers whose certificates have such keys: some require that the client offers them."""


class SignatureScheme(IntEnum):
    """A signature scheme (RFC 8446 §4.2.3).

    In DTLS 1.2 its bytes are hash and signature algorithm (RFC 5246 §7.4.1.4.1), so an ECDSA scheme fits any curve.
    """

    RSA_PKCS1_SHA256 = 0x0401
    ECDSA_SECP256R1_SHA256 = 0x0403
    ECDSA_SECP384R1_SHA384 = 0x0503
    ECDSA_SECP521R1_SHA512 = 0x0603
    RSA_PSS_RSAE_SHA256 = 0x0804
    ED25519 = 0x0807


SIGNATURE_SCHEMES = (
    SignatureScheme.ECDSA_SECP256R1_SHA256,
    SignatureScheme.ECDSA_SECP384R1_SHA384,
    SignatureScheme.ECDSA_SECP521R1_SHA512,
    SignatureScheme.ED25519,
    SignatureScheme.RSA_PSS_RSAE_SHA256,
    SignatureScheme.RSA_PKCS1_SHA256,
)
"""The schemes that a peer may sign with."""

OWN_SCHEMES = {
    SignatureScheme.ECDSA_SECP256R1_SHA256: SHA256(),
    SignatureScheme.ECDSA_SECP384R1_SHA384: SHA384(),
    SignatureScheme.ECDSA_SECP521R1_SHA512: SHA512(),
}
"""The schemes that we can sign with, and their hash. Some servers of mbedTLS request only that of the cipher suite."""

CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

MIN_RSA_BITS, MAX_RSA_BITS = 1024, 8192
"""Embedded clients generate 1024 bits by default, browsers at most 8192. Browsers accept 1024 bits too: the key signs
one handshake while that runs, and the SDP authenticates it."""

MAX_RSA_EXPONENT = 1 << 32
"""The exponent is 65537 in practice. With one as long as the modulus of 2048 bits, a check takes 4 ms, not 0.02 ms."""


def choose_scheme(accepted: Collection[int]) -> SignatureScheme | None:
    """Return the scheme to sign with, or None if the peer accepts none of ours (RFC 5246 §7.4.3, §7.4.8)."""
    return next((scheme for scheme in OWN_SCHEMES if scheme in accepted), None)


def sign(key: ec.EllipticCurvePrivateKey, scheme: SignatureScheme, data: bytes) -> bytes:
    """Return the signature of our certificate's key; it is deterministic (RFC 6979)."""
    return key.sign(data, ec.ECDSA(OWN_SCHEMES[scheme], deterministic_signing=True))


def check_public_key(key: PublicKeyTypes) -> PeerKey:
    """Return the key of a peer's certificate, if one of our signature schemes can use it.

    Raises:
        HandshakeError: The key has another type, curve or size.
    """
    match key:
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, CURVES):
            return key
        case Ed25519PublicKey():
            return key
        case rsa.RSAPublicKey() if MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            if key.public_numbers().e <= MAX_RSA_EXPONENT:
                return key
    raise HandshakeError(
        AlertDescription.UNSUPPORTED_CERTIFICATE,
        "the peer's key is none of ECDSA on P-256, P-384 or P-521, Ed25519, "
        f"and RSA of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits",
    )


def verify(scheme: int, key: PeerKey, signature: bytes, data: bytes) -> None:
    """Verify the peer's signature of `data`.

    Raises:
        HandshakeError: The scheme was not offered or does not fit the key, or the signature is invalid.
    """
    try:
        match scheme, key:
            case SignatureScheme.ECDSA_SECP256R1_SHA256, ec.EllipticCurvePublicKey():
                key.verify(signature, data, ec.ECDSA(SHA256()))
            case SignatureScheme.ECDSA_SECP384R1_SHA384, ec.EllipticCurvePublicKey():
                key.verify(signature, data, ec.ECDSA(SHA384()))
            case SignatureScheme.ECDSA_SECP521R1_SHA512, ec.EllipticCurvePublicKey():
                key.verify(signature, data, ec.ECDSA(SHA512()))
            case SignatureScheme.ED25519, Ed25519PublicKey():
                key.verify(signature, data)
            case SignatureScheme.RSA_PSS_RSAE_SHA256, rsa.RSAPublicKey():
                key.verify(signature, data, padding.PSS(padding.MGF1(SHA256()), SHA256.digest_size), SHA256())
            case SignatureScheme.RSA_PKCS1_SHA256, rsa.RSAPublicKey():
                key.verify(signature, data, padding.PKCS1v15(), SHA256())
            case _:
                raise HandshakeError(
                    AlertDescription.ILLEGAL_PARAMETER, f"signature scheme {scheme:#06x} fits neither offer nor key"
                )
    except InvalidSignature:
        raise HandshakeError(AlertDescription.DECRYPT_ERROR, "a signature does not verify") from None
