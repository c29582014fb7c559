"""What is negotiated: cipher suites, key exchange groups and signature schemes. Each list is best first."""

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
"""The keys that certificates of peers may hold."""


class CipherSuite(IntEnum):
    """RFC 5289 §3.2 and RFC 7905 §3. Those with RSA are for servers whose certificate has such a key: never for us."""

    ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 = 0xC02B
    ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 = 0xC02C
    ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 = 0xCCA9
    ECDHE_RSA_WITH_AES_128_GCM_SHA256 = 0xC02F
    ECDHE_RSA_WITH_AES_256_GCM_SHA384 = 0xC030
    ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 = 0xCCA8


EMPTY_RENEGOTIATION_INFO_SCSV = 0x00FF
"""No suite but a signal: this client knows RFC 5746 (§3.3)."""


class Cipher(NamedTuple):
    """Lengths are in bytes; `hash_name` is that of the PRF, `protection` makes a direction of its key and salt."""

    key_length: int
    salt_length: int
    hash_name: str
    protection: Callable[[bytes, bytes], RecordProtection]


class SuiteParameters(NamedTuple):
    """`key_types` are what the server's certificate may hold."""

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
"""What a server of ours can choose: its certificate is ECDSA."""


class NamedGroup(IntEnum):
    """RFC 8422 §5.1.1."""

    SECP256R1 = 23
    SECP384R1 = 24
    SECP521R1 = 25
    X25519 = 29


GROUPS = (NamedGroup.X25519, NamedGroup.SECP256R1, NamedGroup.SECP384R1, NamedGroup.SECP521R1)
"""The last two for servers whose certificates hold such keys: some refuse a client that does not offer their curve."""


class SignatureScheme(IntEnum):
    """RFC 8446 §4.2.3; in DTLS 1.2 the two bytes are hash and signature algorithm (RFC 5246 §7.4.1.4.1), so a scheme
    of ECDSA goes with each curve."""

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
"""What a peer may sign with."""

OWN_SCHEMES = {
    SignatureScheme.ECDSA_SECP256R1_SHA256: SHA256(),
    SignatureScheme.ECDSA_SECP384R1_SHA384: SHA384(),
    SignatureScheme.ECDSA_SECP521R1_SHA512: SHA512(),
}
"""What we can sign with, best first, and the hash. Some servers of mbedTLS request that of the cipher suite alone."""

CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

MIN_RSA_BITS, MAX_RSA_BITS = 1024, 8192
"""What embedded clients make by default, and as much as browsers can be told to make. Browsers take 1024 bits too: the
key signs one handshake while that runs, and the SDP vouches for it."""

MAX_RSA_EXPONENT = 1 << 32
"""65537 in practice. With an exponent as long as the modulus, a check of 2048 bits takes 4 ms instead of 0.02."""


def choose_scheme(accepted: Collection[int]) -> SignatureScheme | None:
    """Return the scheme to sign with, None where the peer accepts none of ours (RFC 5246 §7.4.3 and §7.4.8)."""
    return next((scheme for scheme in OWN_SCHEMES if scheme in accepted), None)


def sign(key: ec.EllipticCurvePrivateKey, scheme: SignatureScheme, data: bytes) -> bytes:
    """Sign with our certificate's key, the same bytes every time (RFC 6979)."""
    return key.sign(data, ec.ECDSA(OWN_SCHEMES[scheme], deterministic_signing=True))


def check_public_key(key: PublicKeyTypes) -> PeerKey:
    """Return the key of the peer's certificate; raise HandshakeError unless one of our signature schemes can use it."""
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
    """Raise HandshakeError unless the peer signed `data` in a scheme that we offered and its key is made for."""
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
