"""Idle connections to a signaling server: each occupies a place and sends no complete request."""

import resource
import socket
from contextlib import ExitStack

WEBSOCKET = (
    b"GET /v1/signaling HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
UNREAD = b"\x81\x84\0\0\0\0junk" * 20
"""Text frames that the server answers with errors. The client does not read them."""

KINDS = (
    b"",
    b"GET / HTTP/1.1\r\nHost: ",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AA\r\n\r\n",
    WEBSOCKET + UNREAD,
)
"""First bytes of each kind: none, half a request head, the HTTP/2 preface, an h2c upgrade, and a WebSocket."""

OTHER_FILES = 500


def allow_files(count: int) -> int:
    """Raise the limit of open files by `count`, as far as the system allows. Return the number that it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + OTHER_FILES
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    return most - OTHER_FILES


def connect(held: ExitStack, address: tuple[str, int], number: int) -> socket.socket:
    """Open the connection `number`; the kinds alternate. `held` closes it."""
    idle = held.enter_context(socket.create_connection(address, timeout=30))
    idle.sendall(KINDS[number % len(KINDS)])
    return idle
