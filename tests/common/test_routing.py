"""Route tokens: their content, the keys that make them, and the addresses that they resolve to."""

import json
import random
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from antiphon_common.errors import DecodeError
from antiphon_common.keys import Key, KeyRing
from antiphon_common.routing import TOKEN_SIZE, ClusterNetworks, NetworkError, Owner, RouteToken, RouteTokens

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "route_token.json").read_text())
SECRET = bytes.fromhex(VECTORS["secret"])
ICE_CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
OWNER = RouteToken(cluster=1, host=5, port=9000, nonce=77)


def tokens(*keys: Key) -> RouteTokens:
    return RouteTokens(KeyRing(keys or [Key(3, SECRET)]).route)


@pytest.mark.parametrize("vector", VECTORS["tokens"], ids=lambda vector: vector["ufrag"])
def test_tokens_equal_their_vectors(vector: dict[str, Any]) -> None:
    made = RouteToken(vector["cluster"], vector["host"], vector["port"], vector["nonce"])
    minter = tokens(Key(vector["key_id"], SECRET))
    assert minter.mint(made, 0) == vector["ufrag"]
    assert minter.read(vector["ufrag"].encode(), 0) == made


def test_every_changed_character_is_refused() -> None:
    minter = tokens()
    ufrag = minter.mint(OWNER, 0)
    for position in range(TOKEN_SIZE):
        for character in ICE_CHARS.replace(ufrag[position], "") + "=-_\0é":
            changed = (ufrag[:position] + character + ufrag[position + 1 :]).encode()
            with pytest.raises(DecodeError):
                minter.read(changed, 0)


@pytest.mark.parametrize("ufrag", [b"", b"A", b"D" * 22, b"D" * 24, b"D" * 22 + b"A" * 300])
def test_other_ufrags_are_refused(ufrag: bytes) -> None:
    with pytest.raises(DecodeError):
        tokens().read(ufrag, 0)


def test_junk_of_the_right_form_is_refused() -> None:
    guess = random.Random(1)
    reader = tokens(*(Key(number, SECRET) for number in range(64)))
    for _ in range(2000):
        ufrag = "".join(guess.choices(ICE_CHARS, k=22)) + guess.choice("AQgw")
        with pytest.raises(DecodeError):
            reader.read(ufrag.encode(), 0)


def test_a_new_key_mints_and_the_old_one_retires() -> None:
    old, new = Key(1, SECRET, retire_after=200), Key(2, SECRET[::-1], accept_from=50, mint_from=100)
    rotating = tokens(old, new)
    before, after = rotating.mint(OWNER, 99), rotating.mint(OWNER, 100)
    assert (before[0], after[0]) == ("B", "C")
    assert rotating.read(before.encode(), 200) == rotating.read(after.encode(), 200) == OWNER
    with pytest.raises(DecodeError):
        rotating.read(before.encode(), 201)


@pytest.mark.parametrize(
    ("network", "address", "host"),
    [("10.1.0.0/16", "10.1.0.5", 5), ("fd00:1::/96", "fd00:1::102:304", 0x01020304), ("127.0.0.1/32", "127.0.0.1", 0)],
)
def test_an_address_is_encoded_as_its_offset_in_the_network(network: str, address: str, host: int) -> None:
    networks = ClusterNetworks([(1, ip_network(network), 9000, 9999)])
    assert networks.host_of(1, address) == host
    assert networks.resolve(Owner(1, host, 9000)) == (address, 9000)
    assert networks.allow(address, 9999)


@pytest.mark.parametrize("owner", [Owner(1, 256, 9000), Owner(1, 5, 8999), Owner(1, 5, 10000), Owner(2, 5, 9000)])
def test_an_owner_outside_its_clusters_network_has_no_address(owner: Owner) -> None:
    assert ClusterNetworks([(1, ip_network("10.1.0.0/24"), 9000, 9999)]).resolve(owner) is None


def test_addresses_and_networks_that_a_token_cannot_name_are_refused() -> None:
    network = ip_network("10.1.0.0/24")
    networks = ClusterNetworks([(1, network, 9000, 9999)])
    with pytest.raises(NetworkError):
        networks.host_of(1, "10.2.0.1")
    assert not networks.allow("10.1.0.1", 80)
    assert not networks.allow("fd00::1", 9000)
    with pytest.raises(NetworkError):
        ClusterNetworks([(1, ip_network("fd00::/64"), 1, 2)])
    with pytest.raises(NetworkError):
        ClusterNetworks([(1, network, 1, 2), (1, network, 3, 4)])
