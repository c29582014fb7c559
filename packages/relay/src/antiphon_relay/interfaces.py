"""The numeric addresses of this host, asked of the kernel."""

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from cffi import FFI

_ffi = FFI()
_ffi.cdef("""
    struct ifaddrs {
        struct ifaddrs *next; char *name; unsigned int flags;
        unsigned char *address; void *netmask; void *peer; void *data;
    };
    int getifaddrs(struct ifaddrs **first);
    void freeifaddrs(struct ifaddrs *first);
""")
_libc: Any = _ffi.dlopen(None)

_IFF_UP = 0x1
_PROBES = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses of documentation (RFC 5737, RFC 3849): a route leads there if one leads anywhere."""


def local_addresses(family: int) -> list[str]:
    """Return the addresses of interfaces that are up, in the kernel's order; IPv6 link-local ones are left out."""
    first = _ffi.new("struct ifaddrs **")
    if _libc.getifaddrs(first):
        return []
    try:
        found = [str(address) for address in _addresses(first[0], family) if not _is_link_local(address)]
    finally:
        _libc.freeifaddrs(first[0])
    return list(dict.fromkeys(found))


def default_address(family: socket.AddressFamily) -> str | None:
    """Return the address that packets to the rest of the world leave from; nothing is sent to find out."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_PROBES[family], 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def _addresses(entry: Any, family: int) -> Iterator[IPv4Address | IPv6Address]:
    while entry != _ffi.NULL:
        address = entry.address
        if entry.flags & _IFF_UP and address != _ffi.NULL and _ffi.cast("unsigned short *", address)[0] == family:
            if family == socket.AF_INET:
                yield IPv4Address(bytes(_ffi.buffer(address + 4, 4)))
            else:
                yield IPv6Address(bytes(_ffi.buffer(address + 8, 16)))
        entry = entry.next


def _is_link_local(address: IPv4Address | IPv6Address) -> bool:
    return address.version == 6 and address.is_link_local
