"""A relay's forwarder under virtual time, with clients and transceivers controlled by a test."""

from collections.abc import Callable
from ipaddress import ip_network
from typing import NamedTuple

from antiphon_common.core import Path
from antiphon_common.keys import KeyRing
from antiphon_common.link import DOWNLINK, HEADER_SIZE, PATH_START, PATH_STOP, Confirm, LinkKeys, LinkMessage, Release
from antiphon_common.routing import ClusterNetworks, Owner, RouteToken, RouteTokens
from antiphon_common.sockaddr import decode_address, encode_address
from antiphon_relay.cache import FlowCache
from antiphon_relay.flows import Ingress
from antiphon_relay.forwarder import Forwarder

LINK = 0
"""The ingress id of the link in paths here; those of public addresses begin at 1."""
INGRESS, INGRESS6 = 7, 8
CLUSTER = 1
NETWORK = ip_network("10.0.0.0/24")
CLUSTER6, NETWORK6 = 2, ip_network("2001:db8::/96")
"""Transceivers behind an IPv6 link, which this relay does not have."""
FIRST_PORT, LAST_PORT = 9000, 9009


class Seen(NamedTuple):
    """A datagram sent by the relay: to an owner at `link`, with the client's path, or to a client by its path."""

    data: bytes
    path: Path
    link: Path | None = None


class Transceiver:
    """An owner of calls, at `host` and `port` on the link. Its methods return the datagrams that the relay sends in
    response."""

    def __init__(self, relay: "Relay", host: str, port: int) -> None:
        self.link = Path.of(host, port, ingress=LINK)
        self._relay = relay

    @property
    def owner(self) -> Owner:
        """The owner as encoded in route tokens."""
        return Owner(CLUSTER, self._relay.networks.host_of(CLUSTER, self.link.host), self.link.port)

    def token(self, nonce: int = 0) -> bytes:
        """Mint the ufrag of a call of this transceiver."""
        return self._relay.tokens.mint(RouteToken(*self.owner, nonce), self._relay.unix_now).encode()

    def send(self, data: bytes, path: Path) -> list[Seen]:
        """Send a datagram to a client."""
        header = self._relay.link_keys.header(path, DOWNLINK, self._relay.unix_now)
        return self._relay.receive(header + data, self.link)

    def send_message(self, message: LinkMessage) -> list[Seen]:
        """Send a link message to the relay."""
        return self._relay.receive(self._relay.link_keys.encode(message, self._relay.unix_now), self.link)

    def confirm(self, path: Path) -> None:
        assert self.send_message(Confirm(path)) == []

    def release(self, path: Path) -> None:
        assert self.send_message(Release(path)) == []


class Relay:
    """A forwarder with an IPv4 and an IPv6 address. Call `receive` and `wait` to drive it."""

    def __init__(
        self,
        keys: KeyRing | None = None,
        random: Callable[[int], bytes] = bytes,
        *,
        cache_of: int | None = None,
    ) -> None:
        """Make a relay. With `cache_of` it has the flow cache of that cluster."""
        self.keys = keys or KeyRing.generate(bytes)
        self.tokens = RouteTokens(self.keys.route)
        self.link_keys = LinkKeys(self.keys.link)
        self.networks = ClusterNetworks(
            [(CLUSTER, NETWORK, FIRST_PORT, LAST_PORT), (CLUSTER6, NETWORK6, FIRST_PORT, LAST_PORT)]
        )
        self.now = 0.0
        self.unix_offset = 1000.0
        self.core = Forwarder(
            [Ingress(INGRESS, 16), Ingress(INGRESS6, 28)],
            16,
            self.tokens,
            self.networks,
            LinkKeys(self.keys.link),
            random,
            unix_now=self.unix_now,
            cache=None if cache_of is None else FlowCache(cache_of, self.keys.link, unix_now=self.unix_now),
        )
        self.counters = self.core.counters

    @property
    def unix_now(self) -> float:
        return self.now + self.unix_offset

    def transceiver(self, port: int = FIRST_PORT, host: str = "10.0.0.5") -> Transceiver:
        return Transceiver(self, host, port)

    def receive(self, data: bytes, source: Path) -> list[Seen]:
        """Deliver a datagram, and return all datagrams sent."""
        forward_datagram(self.core, data, source, self.now)
        return self.drain()

    def drain(self) -> list[Seen]:
        """Return all queued datagrams."""
        seen: list[Seen] = []
        for data, target in take_outboxes(self.core):
            if target.ingress != LINK:
                seen.append(Seen(data, target))
                continue
            assert self.link_keys.verify(data, self.unix_now)
            seen.append(Seen(data[HEADER_SIZE:], Path.decode(data[PATH_START:PATH_STOP]), target))
        return seen

    def wait(self, seconds: float) -> None:
        """Let time pass, and handle the forwarder's timeouts."""
        until = self.now + seconds
        while (due := self.core.poll_timeout()) <= until:
            self.now = max(self.now, due)
            self.core.handle_timeout(self.now, self.unix_now)
        self.now = until


def forward_datagram(forwarder: Forwarder, data: bytes, source: Path, now: float) -> None:
    """Deliver one datagram, from a client by its ingress or from an owner by `LINK`."""
    batch = [(data, encode_address(source.host, source.port))]
    if source.ingress == LINK:
        forwarder.forward_downlink(batch, now)
    else:
        ingress = next(ingress for ingress in forwarder.ingresses.values() if ingress.id == source.ingress)
        forwarder.forward_uplink(ingress, batch, now)


def take_outboxes(forwarder: Forwarder) -> list[tuple[bytes, Path]]:
    """Return all queued datagrams of a forwarder with their targets, and empty the outboxes."""
    taken: list[tuple[bytes, Path]] = []
    outboxes = [(ingress.id, ingress.outbox) for ingress in forwarder.ingresses.values()]
    for ingress_id, outbox in ((LINK, forwarder.link_outbox), *outboxes):
        taken += [(data, Path.of(*decode_address(address), ingress=ingress_id)) for data, address in outbox]
        outbox.clear()
    return taken


def client(number: int, *, host: str = "198.51.100.1") -> Path:
    """Return the path of one of many clients."""
    return Path.of(host, 1024 + number, ingress=INGRESS6 if ":" in host else INGRESS)


def binding_request(ufrag: bytes, transaction: int = 0) -> bytes:
    """Return a binding request with the attributes that a relay reads."""
    username = ufrag + b":them"
    attribute = b"\x00\x06" + len(username).to_bytes(2, "big") + username + bytes(-len(username) % 4)
    head = b"\x00\x01" + len(attribute).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + transaction.to_bytes(12, "big")
    return head + attribute
