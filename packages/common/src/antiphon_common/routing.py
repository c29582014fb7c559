"""The route token: a server-side ufrag that names the owner of its call (RFC 8445 §5.3).

It is modelled on the encrypted server id of QUIC-LB.

23 ice-chars: one for the key id, then 22 that carry one AES-128 block, big-endian; the four spare bits come last and
are zero:

    cluster u16 | host u32 | port u16 | nonce u32 | check u32 (zero)
"""

import base64
import struct
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from antiphon_common.errors import AntiphonError, DecodeError
from antiphon_common.keys import MAX_KEY_ID, DerivedKeys

TOKEN_SIZE = 23
"""Characters of a route token."""

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_VALUE_OF = {character: value for value, character in enumerate(_ALPHABET)}
_LAST_CHARACTERS = frozenset(b"AQgw")
"""The last ice-char carries two bits of the block; its four spare bits are zero."""
_LAYOUT = struct.Struct("!HIHII")
_AES_128_KEY_SIZE = 16


class Owner(NamedTuple):
    """A transceiver as route tokens name it: `host` is an offset in the network of `cluster`, `port` is its link port.

    `ClusterNetworks.resolve` turns it into an address.
    """

    cluster: int
    host: int
    port: int


class RouteToken(NamedTuple):
    """The content of a route token: the three fields of the call's `owner`, and a `nonce` of 32 random bits.

    `RouteTokens` turns it into a ufrag and back.
    """

    cluster: int
    host: int
    port: int
    nonce: int

    @property
    def owner(self) -> Owner:
        """The transceiver that has the call."""
        return Owner(self.cluster, self.host, self.port)


class RouteTokens:
    """Makes and reads route tokens under the route keys.

    Only holders of a route key can make one; a guess passes the check once in 2^32. Times are Unix times in seconds.
    """

    def __init__(self, keys: DerivedKeys) -> None:
        self._keys = keys
        self._openers: dict[bytes, CipherContext] = {}

    def mint(self, token: RouteToken, unix_now: float) -> str:
        """Return a token as ufrag, sealed with the key that mints at `unix_now`."""
        key_id, key = self._keys.minting(unix_now)
        seal = Cipher(AES(key[:_AES_128_KEY_SIZE]), ECB()).encryptor()  # one block, unique by its nonce
        block = seal.update(_LAYOUT.pack(*token, 0))
        return chr(_ALPHABET[key_id]) + base64.b64encode(block).rstrip(b"=").decode()

    def read(self, ufrag: bytes, unix_now: float) -> RouteToken:
        """Invert `mint`.

        Raises:
            DecodeError: no key that is accepted at `unix_now` has made it.
        """
        if len(ufrag) != TOKEN_SIZE or ufrag[-1] not in _LAST_CHARACTERS:
            raise DecodeError("not the form of a route token")
        key = self._keys.accepting(_VALUE_OF.get(ufrag[0], -1), unix_now)
        if key is None:
            raise DecodeError("no key of this id")
        try:
            block = base64.b64decode(ufrag[1:] + b"==", validate=True)
        except ValueError as error:
            raise DecodeError("not ice-chars") from error
        *fields, check = _LAYOUT.unpack(self._opener(key).update(block))
        if check:
            raise DecodeError("a route token that no key of this id has made")
        return RouteToken(*fields)

    def _opener(self, key: bytes) -> CipherContext:
        """Return the cipher context of a key. It is kept: ECB has no state, and a new one costs more than a block.

        Rotations leave contexts of retired keys behind, which are dropped once there are more than key ids.
        """
        opener = self._openers.get(key)
        if opener is None:
            if len(self._openers) > MAX_KEY_ID:
                self._openers.clear()
            opener = self._openers[key] = Cipher(AES(key[:_AES_128_KEY_SIZE]), ECB()).decryptor()
        return opener


class NetworkError(AntiphonError, ValueError):
    """An address that no route token can name; the message says what to change."""


Network = IPv4Network | IPv6Network


class ClusterNetworks:
    """The networks of each cluster's transceivers. `resolve` turns an owner into an address, `host_of` inverts it.

    A route token leads to no other address, so that a stolen key cannot redirect packets elsewhere.
    """

    def __init__(self, networks: Iterable[tuple[int, Network, int, int]]) -> None:
        """Each entry is a cluster, its network (IPv4, or IPv6 of at most 2^32 addresses), first and last port.

        Raises:
            NetworkError: a cluster has two networks, or a network is too large.
        """
        self._routes: dict[int, tuple[Network, range]] = {}
        for cluster, network, first_port, last_port in networks:
            if cluster in self._routes:
                raise NetworkError(f"cluster {cluster} has two networks: a route token has room for one")
            if network.num_addresses > 1 << 32:
                raise NetworkError(f"{network} is too large for a route token: give cluster {cluster} at most a /96")
            self._routes[cluster] = network, range(first_port, last_port + 1)

    def resolve(self, owner: Owner) -> tuple[str, int] | None:
        """Return an owner's numeric host and port, or None when they are outside its cluster's network or ports."""
        network, ports = self._routes.get(owner.cluster, (None, range(0)))
        if network is None or owner.host >= network.num_addresses or owner.port not in ports:
            return None
        return str(network[owner.host]), owner.port

    def host_of(self, cluster: int, address: str) -> int:
        """Return the host number that a token has for a numeric address of a cluster.

        Raises:
            NetworkError: the address is outside the cluster's network.
            ValueError: `address` is not numeric.
        """
        network, _ = self._routes.get(cluster, (None, None))
        host = ip_address(address)
        if network is None or host not in network:
            raise NetworkError(f"{address} is in no network of cluster {cluster}: see --transceiver-network")
        return int(host) - int(network.network_address)

    def allow(self, address: str, port: int) -> bool:
        """Return True if a transceiver of any cluster may have this numeric address and port."""
        host = ip_address(address)
        return any(host in network and port in ports for network, ports in self._routes.values())
