"""Hosts on one Ethernet, behind a host of the test network that is their gateway.

The router of `support.net.router` forwards IP packets only. Hosts that need ARP, such as those that share an address,
are attached to a bridge of the gateway by veth pairs.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from support.net.namespaces import Host, ip, namespace

BRIDGE = "lan0"
DEVICE = "eth0"
"""The interface of a host, at the Ethernet."""

GATEWAY_SETTINGS = (
    "net.ipv4.ip_forward=1",
    # The gateway accepts the gratuitous ARP of a host that takes an address over at once.
    f"net.ipv4.neigh.{BRIDGE}.locktime=0",
    f"net.ipv4.conf.{BRIDGE}.arp_accept=1",
)


class Lan:
    """The Ethernet behind `gateway`. Its hosts are looked up by name."""

    def __init__(self, gateway: Host, hosts: Mapping[str, Host]) -> None:
        self.gateway = gateway
        self._hosts = hosts

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def unplug(self, name: str) -> None:
        """Set a host's link down."""
        ip("-n", self.gateway.namespace, "link", "set", name, "down")

    def plug(self, name: str) -> None:
        ip("-n", self.gateway.namespace, "link", "set", name, "up")


@contextmanager
def lan(gateway: Host, address: str, prefix: int, hosts: Mapping[str, str]) -> Iterator[Lan]:
    """Make the hosts of one network, given by name and address. The gateway has `address` in it.

    A name also names the gateway's end of a host's link, and has at most 15 characters.
    """
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
