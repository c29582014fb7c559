"""Hosts on one Ethernet, behind a host of the test network that is their gateway.

The router of `support.net.router` speaks IP alone. What needs ARP, as an address that moves from host to host does,
stands on a bridge of the gateway's, joined by veth pairs.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from support.net.namespaces import Host, ip, namespace

BRIDGE = "lan0"
DEVICE = "eth0"
"""The interface of a host, at the Ethernet."""

GATEWAY_SETTINGS = (
    "net.ipv4.ip_forward=1",
    # A neighbour that takes an address over says so at once, and is believed at once.
    f"net.ipv4.neigh.{BRIDGE}.locktime=0",
    f"net.ipv4.conf.{BRIDGE}.arp_accept=1",
)


class Lan:
    """The Ethernet behind `gateway`."""

    def __init__(self, gateway: Host, hosts: Mapping[str, Host]) -> None:
        self.gateway = gateway
        self._hosts = hosts

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def unplug(self, name: str) -> None:
        """Pull a host's cable."""
        ip("-n", self.gateway.namespace, "link", "set", name, "down")

    def plug(self, name: str) -> None:
        ip("-n", self.gateway.namespace, "link", "set", name, "up")


@contextmanager
def lan(gateway: Host, address: str, prefix: int, hosts: Mapping[str, str]) -> Iterator[Lan]:
    """Make hosts, given by name and address, of one network in which the gateway has `address`. A name is also that of
    the gateway's end of a host's cable, and has at most 15 characters."""
    with ExitStack() as stack:
        made = {name: stack.enter_context(namespace(Host(name, own))) for name, own in hosts.items()}
        for setting in _bridge(gateway, address, prefix):
            gateway.run("sysctl", "-q", "-w", setting)
        for host in made.values():
            _join(gateway, address, prefix, host)
        yield Lan(gateway, made)


def _bridge(gateway: Host, address: str, prefix: int) -> tuple[str, ...]:
    for command in (
        f"link add {BRIDGE} type bridge forward_delay 0",
        f"addr add {address}/{prefix} dev {BRIDGE}",
        f"link set {BRIDGE} up",
    ):
        ip("-n", gateway.namespace, *command.split())
    return GATEWAY_SETTINGS


def _join(gateway: Host, gateway_address: str, prefix: int, host: Host) -> None:
    port = host.name
    ip("-n", gateway.namespace, "link", "add", port, "type", "veth", "peer", "name", DEVICE, "netns", host.namespace)
    for command in (f"link set {port} master {BRIDGE}", f"link set {port} up"):
        ip("-n", gateway.namespace, *command.split())
    for command in (
        "link set lo up",
        f"link set {DEVICE} up",
        f"addr add {host.address}/{prefix} dev {DEVICE}",
        f"route add default via {gateway_address}",
    ):
        ip("-n", host.namespace, *command.split())
