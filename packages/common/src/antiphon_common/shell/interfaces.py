"""The numeric addresses of this host, asked of the kernel."""

import socket
from ipaddress import ip_address

import ifaddr

_PROBES = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses of documentation (RFC 5737, RFC 3849): a route leads there if one leads anywhere."""


def local_addresses(family: socket.AddressFamily) -> list[str]:
    """Return the addresses of this host's interfaces, in the kernel's order; IPv6 link-local ones are left out."""
    known = (ip for adapter in ifaddr.get_adapters() for ip in adapter.ips)
    hosts = (ip.ip if isinstance(ip.ip, str) else ip.ip[0] for ip in known if ip.is_IPv4 == (family == socket.AF_INET))
    return list(dict.fromkeys(host for host in hosts if family == socket.AF_INET or not ip_address(host).is_link_local))


def has_address(host: str) -> bool:
    """Tell whether a numeric address is this host's now. Costs little: shared addresses come and go at any time."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def default_address(family: socket.AddressFamily) -> str | None:
    """Return the address that packets to the rest of the world leave from; nothing is sent to find out."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_PROBES[family], 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None
