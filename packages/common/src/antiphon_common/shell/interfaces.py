"""The numeric addresses of this host, as the kernel reports them."""

import socket
from ipaddress import ip_address

import ifaddr

_PROBES = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Documentation addresses (RFC 5737, RFC 3849), to which only a default route leads."""


def local_addresses(family: socket.AddressFamily) -> list[str]:
    """Return the addresses of this host's interfaces, in the kernel's order, without IPv6 link-local ones."""
    known = (ip for adapter in ifaddr.get_adapters() for ip in adapter.ips)
    hosts = (ip.ip if isinstance(ip.ip, str) else ip.ip[0] for ip in known if ip.is_IPv4 == (family == socket.AF_INET))
    return list(dict.fromkeys(host for host in hosts if family == socket.AF_INET or not ip_address(host).is_link_local))


def has_address(host: str) -> bool:
    """Return True if this host has a numeric address now. It is cheap, since shared addresses come and go often."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def default_address(family: socket.AddressFamily) -> str | None:
    """Return the source address of the default route, or None. No packet is sent."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_PROBES[family], 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None
