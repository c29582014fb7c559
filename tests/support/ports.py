"""Ports of loopback that nobody has now. Somebody may take one before it is used, which tests of one machine bear."""

import socket


def free_port() -> int:
    """Return a TCP port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def free_udp_port() -> int:
    """Return a UDP port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
