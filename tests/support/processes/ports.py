"""Free ports on loopback for programs that cannot report the port that the kernel chose."""

import random
import socket
from pathlib import Path

FIRST_PORT = 10_000

_reserved: set[int] = set()
"""Ports that this process reserved."""


def free_port() -> int:
    """Return a free TCP port outside the kernel's ephemeral range."""
    return _reserve(socket.SOCK_STREAM)


def free_udp_port() -> int:
    """Return a free UDP port outside the kernel's ephemeral range."""
    return _reserve(socket.SOCK_DGRAM)


def _reserve(kind: socket.SocketKind) -> int:
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = range(FIRST_PORT, ephemeral)
    for port in random.sample(candidates, len(candidates)):
        if port not in _reserved and _is_free(port, kind):
            _reserved.add(port)
            return port
    raise OSError(f"no free port from {candidates.start} to {candidates.stop - 1}")


def _is_free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
