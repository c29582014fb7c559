"""Ephemeral Diffie-Hellman in the groups of RFC 8422, from entropy that the caller gives."""

from collections.abc import Callable
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from antiphon_transceiver.dtls.alerts import AlertDescription, HandshakeError
from antiphon_transceiver.dtls.suites import NamedGroup

P256_ORDER = 0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551
P256_ENTROPY = 40
"""Bytes behind a P-256 key: 64 bits more than the order has, so that the reduction has no bias (FIPS 186-5 A.2.1)."""


class KeyShare(Protocol):
    """Our half of one exchange."""

    public: bytes

    def exchange(self, peer: bytes) -> bytes:
        """Return the shared secret; raise HandshakeError when `peer` is no point of the group."""


def generate_key_share(group: int, random: Callable[[int], bytes]) -> KeyShare:
    """Return a new key pair of a group of `NamedGroup`; `random` gives as many bytes as it is asked for."""
    return X25519KeyShare(random) if group == NamedGroup.X25519 else P256KeyShare(random)


class X25519KeyShare:
    """A key pair on Curve25519 (RFC 7748); its public half has 32 bytes."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._private = X25519PrivateKey.from_private_bytes(random(32))
        self.public = self._private.public_key().public_bytes_raw()

    def exchange(self, peer: bytes) -> bytes:
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError:  # wrong length, or the all-zero secret of RFC 8422 §5.11
            raise HandshakeError(AlertDescription.ILLEGAL_PARAMETER, "a bad X25519 key") from None


class P256KeyShare:
    """A key pair on secp256r1; its public half is an uncompressed point of 65 bytes (RFC 8422 §5.4.1)."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        scalar = int.from_bytes(random(P256_ENTROPY), "big") % (P256_ORDER - 1) + 1
        self._private = ec.derive_private_key(scalar, ec.SECP256R1())
        self.public = self._private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def exchange(self, peer: bytes) -> bytes:
        if peer[:1] != b"\x04":
            raise HandshakeError(AlertDescription.ILLEGAL_PARAMETER, "not an uncompressed point")
        try:
            public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), peer)
        except ValueError:  # wrong length, or not on the curve
            raise HandshakeError(AlertDescription.ILLEGAL_PARAMETER, "a bad P-256 key") from None
        return self._private.exchange(ec.ECDH(), public)
