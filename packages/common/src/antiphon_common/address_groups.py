"""Address groups: what the limits of HTTP servers count as one address."""

from ipaddress import IPv6Address, ip_address


def address_group(host: str) -> str:
    """Return the group of a numeric address: an IPv4 address, or the /64 of an IPv6 address, since one host has it all.

    Text that is no address is its own group.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address.is_loopback:
        return str(address)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


def is_loopback_group(group: str) -> bool:
    """Return True if the addresses of a group are those of this machine's loopback interface."""
    try:
        return ip_address(group).is_loopback
    except ValueError:
        return False
