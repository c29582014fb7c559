from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from antiphon_transceiver.dtls.alerts import AlertDescription, HandshakeError
from antiphon_transceiver.dtls.groups import CURVES, generate_key_share
from antiphon_transceiver.dtls.suites import GROUPS, NamedGroup


@pytest.mark.parametrize("group", GROUPS)
def test_both_sides_derive_the_same_secret_and_equal_entropy_gives_equal_keys(group: NamedGroup) -> None:
    random = Random(1)
    one, other = generate_key_share(group, random.randbytes), generate_key_share(group, random.randbytes)
    assert one.exchange(other.public) == other.exchange(one.public)
    assert generate_key_share(group, Random(1).randbytes).public == one.public != other.public


@pytest.mark.parametrize(
    ("group", "peer"),
    [
        (NamedGroup.X25519, b""),
        (NamedGroup.X25519, bytes(32)),
        (NamedGroup.X25519, bytes(33)),
        (NamedGroup.SECP256R1, b""),
        (NamedGroup.SECP256R1, b"\x04" + bytes(64)),
        (NamedGroup.SECP256R1, b"\x04" + bytes(63)),
        (NamedGroup.SECP256R1, b"\x02" + b"\x6b" * 32),
        (NamedGroup.SECP256R1, b"\x00"),
        (NamedGroup.SECP384R1, b"\x04" + bytes(96)),
        (NamedGroup.SECP384R1, b"\x04" + bytes(64)),
        (NamedGroup.SECP521R1, b"\x04" + bytes(132)),
    ],
)
def test_a_public_key_that_is_not_a_point_of_the_group_is_refused(group: NamedGroup, peer: bytes) -> None:
    with pytest.raises(HandshakeError) as raised:
        generate_key_share(group, Random(1).randbytes).exchange(peer)
    assert raised.value.alert is AlertDescription.ILLEGAL_PARAMETER


@pytest.mark.parametrize("group", CURVES)
@pytest.mark.parametrize("entropy", [0x00, 0xFF])
def test_any_entropy_gives_a_valid_key(group: NamedGroup, entropy: int) -> None:
    """Extreme values reduce to keys within the group of the correct order."""
    share = generate_key_share(group, lambda size: bytes((entropy,)) * size)
    assert share.exchange(share.public)
    curve, order, _ = CURVES[group]
    highest = ec.derive_private_key(order - 1, curve).public_key().public_numbers()
    generator = ec.derive_private_key(1, curve).public_key().public_numbers()
    assert (highest.x, highest.y != generator.y) == (generator.x, True), "n - 1 times the generator is its inverse"
