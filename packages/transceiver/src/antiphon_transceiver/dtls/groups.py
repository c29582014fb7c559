"""Ephemeral Diffie-Hellman in the groups of RFC 8422, with entropy passed as an argument."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from antiphon_transceiver.dtls.alerts import AlertDescription, HandshakeError
from antiphon_transceiver.dtls.suites import NamedGroup


class Curve(NamedTuple):
    """A NIST curve, the order of its group, and the bytes of entropy for a key.

    The entropy has 64 bits more than the order, so that the reduction has no bias (FIPS 186-5 A.2.1).
    """

    curve: ec.EllipticCurve
    order: int
    entropy: int


P256_ORDER = 0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551
P384_ORDER = (1 << 384) - 0x389CB27E_0BC8D220_A7E5F24D_B74F5885_1313E695_333AD68D
P521_ORDER = (1 << 521) - 0x5_AE79787C_40D06994_8033FEB7_08F65A2F_C44A3647_7663B851_449048E1_6EC79BF7

CURVES = {
    NamedGroup.SECP256R1: Curve(ec.SECP256R1(), P256_ORDER, 40),
    NamedGroup.SECP384R1: Curve(ec.SECP384R1(), P384_ORDER, 56),
    NamedGroup.SECP521R1: Curve(ec.SECP521R1(), P521_ORDER, 74),
}


class KeyShare(Protocol):
    """Our key pair of one exchange. Send `public`, and pass the peer's public key to `exchange`."""

    public: bytes

    def exchange(self, peer: bytes) -> bytes:
        """Return the shared secret.

        Raises:
            HandshakeError: `peer` is not a point of the group.
        """


def generate_key_share(group: int, random: Callable[[int], bytes]) -> KeyShare:
    """Return a new key pair of a group of `NamedGroup`; `random` returns as many bytes as it is passed."""
    if group == NamedGroup.X25519:
        return X25519KeyShare(random)
    return NistKeyShare(CURVES[NamedGroup(group)], random)


class X25519KeyShare:
    """A key pair on Curve25519 (RFC 7748), as a `KeyShare`; `public` has 32 bytes."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._private = X25519PrivateKey.from_private_bytes(random(32))
        self.public = self._private.public_key().public_bytes_raw()

    def exchange(self, peer: bytes) -> bytes:
        """Return the shared secret.

        Raises:
            HandshakeError: `peer` has not 32 bytes, or the secret is zero (RFC 8422 §5.11).
        """
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError:  # wrong length, or the all-zero secret of RFC 8422 §5.11
            raise HandshakeError(AlertDescription.ILLEGAL_PARAMETER, "a bad X25519 key") from None


class NistKeyShare:
    """A key pair on a NIST curve, as a `KeyShare`; `public` is an uncompressed point (RFC 8422 §5.4.1)."""

    def __init__(self, curve: Curve, random: Callable[[int], bytes]) -> None:
        self._curve = curve.curve
        scalar = int.from_bytes(random(curve.entropy), "big") % (curve.order - 1) + 1
        self._private = ec.derive_private_key(scalar, curve.curve)
        self.public = self._private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def exchange(self, peer: bytes) -> bytes:
        """Return the shared secret.

        Raises:
            HandshakeError: `peer` is not an uncompressed point of the curve.
        """
        if peer[:1] != b"\x04":
            raise HandshakeError(AlertDescription.ILLEGAL_PARAMETER, "not an uncompressed point")
        try:
            public = ec.EllipticCurvePublicKey.from_encoded_point(self._curve, peer)
        except ValueError:  # wrong length, or not on the curve
            raise HandshakeError(AlertDescription.ILLEGAL_PARAMETER, f"a bad {self._curve.name} key") from None
        return self._private.exchange(ec.ECDH(), public)
