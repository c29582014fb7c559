"""UDP sockets that move many datagrams for each system call.

`receive` and `send` use encoded addresses, the bytes of the kernel's sockaddr, which make the cheapest dict keys.
`receive_batch`, `queue` and `flush` use (host, port).
"""

import socket
import sys
from typing import Self

import trio

from antiphon_common.shell.mmsg import MessageVectors
from antiphon_common.shell.system_calls import BATCH, SO_RXQ_OVFL, PlainCalls, SystemCalls, UdpCounters
from antiphon_common.sockaddr import decode_address, encode_address

BUFFER_BYTES = 8 << 20
"""Socket buffers, where the kernel grants them: a tenth of a second of 100,000 packets a second."""
MAX_REMEMBERED = 4096
"""Addresses whose two forms are cached: a transceiver has a handful of relays."""

Address = tuple[str, int]

_FORCED = {socket.SO_RCVBUF: 33, socket.SO_SNDBUF: 32}  # SO_RCVBUFFORCE, SO_SNDBUFFORCE
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT = 10, 23, 0
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78
_IS_LINUX: bool = sys.platform == "linux"


class BatchSocket:
    """A bound, non-blocking UDP socket, read with `receive` or `receive_batch`, written with `send` or `queue`.

    No failure of the network raises; what is lost is counted.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.counters = UdpCounters()
        self._calls = _make_calls(sock, self.counters)
        self.receive = self._calls.receive
        self.send = self._calls.send
        self._family = sock.family.to_bytes(2, sys.byteorder)
        self._queued: list[tuple[bytes, bytes]] = []
        self._decoded: dict[bytes, Address] = {}
        self._encoded: dict[Address, bytes] = {}

    @classmethod
    def open(cls, address: Address, *, freebind: bool = False, shared: bool = False) -> Self:
        """Bind a numeric (host, port). Datagrams above the path's MTU leave in fragments.

        `freebind` allows an address that this host does not have yet. With `shared`, several sockets bind the same
        address, and the kernel divides the flows among them.

        Raises:
            OSError: the address cannot be bound; the message names it.
        """
        host, port = address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            _set_options(sock, freebind=freebind)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((host, port))
        except OSError as error:
            sock.close()
            raise OSError(error.errno, f"cannot have UDP port {port} of {host}: {error.strerror}") from None
        return cls(sock)

    @property
    def address(self) -> Address:
        """The address that the socket is bound to."""
        host, port = self.socket.getsockname()[:2]
        return host, port

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        self.socket.close()

    async def wait_readable(self) -> None:
        await trio.lowlevel.wait_readable(self.socket)

    def receive_batch(self) -> list[tuple[bytes, Address]]:
        """Return the datagrams that wait, at most `BATCH`, with their sources."""
        decoded = self._decoded
        batch: list[tuple[bytes, Address]] = []
        for data, source in self.receive():
            address = decoded.get(source)
            if address is None:
                if len(decoded) >= MAX_REMEMBERED:
                    decoded.clear()
                address = decoded[source] = decode_address(source)
            batch.append((data, address))
        return batch

    def queue(self, data: bytes, address: Address) -> None:
        """Keep a datagram for a numeric address until `flush`; the `BATCH`th flushes."""
        destination = self._encoded.get(address)
        if destination is None:
            if len(self._encoded) >= MAX_REMEMBERED:
                self._encoded.clear()
            destination = encode_address(*address)
            if destination[:2] != self._family:
                self.counters.failed += 1
                return
            self._encoded[address] = destination
        self._queued.append((data, destination))
        if len(self._queued) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Send the queued datagrams."""
        if self._queued:
            self.send(self._queued)
            self._queued = []


def _set_options(sock: socket.socket, *, freebind: bool) -> None:
    is_v6 = sock.family == socket.AF_INET6
    level = socket.IPPROTO_IPV6 if is_v6 else socket.IPPROTO_IP
    for option, forced in _FORCED.items():
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    if is_v6:
        sock.setsockopt(level, socket.IPV6_V6ONLY, 1)
    if not _IS_LINUX:
        return
    sock.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
    sock.setsockopt(level, _IPV6_MTU_DISCOVER if is_v6 else _IP_MTU_DISCOVER, _PMTUDISC_DONT)
    if freebind:
        sock.setsockopt(level, _IPV6_FREEBIND if is_v6 else _IP_FREEBIND, 1)


def _make_calls(sock: socket.socket, counters: UdpCounters) -> SystemCalls:
    if _IS_LINUX:
        return MessageVectors(sock, counters)
    return PlainCalls(sock, counters)
