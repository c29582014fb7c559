"""Ephemeral Diffie-Hellman in the groups of RFC 8422, from entropy that the caller gives."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from antiphon_transceiver.dtls.alerts import AlertDescription, HandshakeError
from antiphon_transceiver.dtls.suites import NamedGroup


class Curve(NamedTuple):
    """A NIST curve, the order of its group, and the bytes of entropy behind a key: 64 bits more than the order has, so
    that the reduction has no bias (FIPS 186-5 A.2.1)."""

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
    """Our half of one exchange."""

    public: bytes

    def exchange(self, peer: bytes) -> bytes:
        """Return the shared secret; raise HandshakeError when `peer` is no point of the group."""


def generate_key_share(group: int, random: Callable[[int], bytes]) -> KeyShare:
    """Return a new key pair of a group of `NamedGroup`; `random` gives as many bytes as it is asked for."""
    if group == NamedGroup.X25519:
        return X25519KeyShare(random)
    return NistKeyShare(CURVES[NamedGroup(group)], random)


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


class NistKeyShare:
    """A key pair on a NIST curve; its public half is an uncompressed point (RFC 8422 §5.4.1)."""

    def __init__(self, curve: Curve, random: Callable[[int], bytes]) -> None:
        self._curve = curve.curve
        scalar = int.from_bytes(random(curve.entropy), "big") % (curve.order - 1) + 1
        self._private = ec.derive_private_key(scalar, curve.curve)
        self.public = self._private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def exchange(self, peer: bytes) -> bytes:
        if peer[:1] != b"\x04":
            raise HandshakeError(AlertDescription.ILLEGAL_PARAMETER, "not an uncompressed point")
        try:
            public = ec.EllipticCurvePublicKey.from_encoded_point(self._curve, peer)
        except ValueError:  # wrong length, or not on the curve
            raise HandshakeError(AlertDescription.ILLEGAL_PARAMETER, f"a bad {self._curve.name} key") from None
        return self._private.exchange(ec.ECDH(), public)
