"""Accepts HTTP/1.1 connections and bounds them: how many there are, in all and of one address, and what each may hold.

Runs under Trio or asyncio. `http1` answers the requests of one connection.
"""

import errno
import logging
import resource
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import Any

import anyio
import trio

from antiphon_common.shell.http1 import BROKEN, App, Http1Connection, Peers, Timeouts

MAX_CONNECTIONS = 2000
"""Connections at once, where the process may have that many descriptors twice. Each costs some 50 KiB."""
ADDRESS_SHARE = 4
"""One address may have this part of all connections. Loopback addresses may have all: a proxy's are of everybody."""
ACCEPT_PAUSE = 0.1
"""Seconds before the next try when the process or the machine is out of descriptors or memory."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

logger = logging.getLogger(__name__)


class HttpCounters:
    """What happened to connections, for the metrics."""

    def __init__(self) -> None:
        self.connections = 0
        self.connections_refused = 0
        """No room, and no connection that could have made some."""
        self.connections_evicted = 0
        """Closed while they waited for a request, because another one needed the room."""
        self.handshakes_failed = 0


class Connections:
    """The connections of one server. When there is no room, the one that has waited longest for a request goes: of the
    same address if that one has too many, else of all. Those with a request in progress stay."""

    def __init__(
        self,
        counters: HttpCounters,
        limit: int | None = None,
        address_share: int = ADDRESS_SHARE,
        is_proxy: Callable[[str], bool] = lambda host: False,
    ) -> None:
        """`limit` is how many there may be; without it, as many as MAX_CONNECTIONS and the descriptors allow. The
        addresses of proxies may have all."""
        self._is_proxy = is_proxy
        self._counters = counters
        self._limit = connection_limit() if limit is None else limit
        self._share = max(1, self._limit // address_share)
        self._count = 0
        self._waiting: dict[Connection, None] = {}
        self._addresses: dict[str, _Address] = {}

    @contextmanager
    def admit(self, host: str) -> Iterator["Connection | None"]:
        """Hold a place for a connection from a numeric address; None when there is no room."""
        group = address_group(host)
        own = self._addresses.get(group) or _Address()
        if not self._make_room(host, own):
            self._counters.connections_refused += 1
            yield None
            return
        self._addresses[group] = own
        self._counters.connections += 1
        place = Connection(self, own)
        try:
            with place.scope:
                yield place
        finally:
            place.leave()
            if not own.count:
                self._addresses.pop(group, None)

    def _make_room(self, host: str, own: "_Address") -> bool:
        if own.count >= self._share and not (is_loopback_group(address_group(host)) or self._is_proxy(host)):
            return self._evict(own.waiting)
        return self._count < self._limit or self._evict(self._waiting)

    def _evict(self, waiting: "dict[Connection, None]") -> bool:
        oldest = next(iter(waiting), None)
        if oldest is None:
            return False
        self._counters.connections_evicted += 1
        oldest.scope.cancel()
        oldest.leave()
        return True


class _Address:
    """The connections of one address."""

    def __init__(self) -> None:
        self.count = 0
        self.waiting: dict[Connection, None] = {}


class Connection:
    """A place among the connections. Cancelling its `scope` ends it."""

    def __init__(self, all_: Connections, own: _Address) -> None:
        self.scope = anyio.CancelScope()
        self._all = all_
        self._own = own
        self._left = False
        all_._count += 1
        own.count += 1
        self.wait(True)

    def wait(self, waits: bool) -> None:
        """Note that the connection waits for a request now, and may be closed for another one, or that it does not."""
        for table in (self._all._waiting, self._own.waiting):
            table.pop(self, None)
            if waits and not self._left:
                table[self] = None

    def leave(self) -> None:
        """Give the place up; again without effect."""
        if self._left:
            return
        self._left = True
        self.wait(False)
        self._all._count -= 1
        self._own.count -= 1


def connection_limit() -> int:
    """Return how many connections a server may have, and raise this process's soft limit of descriptors for them, as
    far as its hard limit allows. Half of the descriptors stay for everything else."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MAX_CONNECTIONS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, allowed // 2)


def address_group(host: str) -> str:
    """Return what counts as one address: an IPv4 address, or an IPv6 /64, of which one host has every address."""
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
    """Tell whether connections of a group come from this machine."""
    try:
        return ip_address(group).is_loopback
    except ValueError:
        return False


async def accept(listener: socket.socket, handle: Callable[[Any, str], Coroutine[Any, Any, None]]) -> None:
    """Call `handle` in a task of its own with each accepted connection, until cancelled: with a Trio SocketStream, or
    under asyncio with what can do the same, and the numeric address it comes from. `listener` is not blocking."""
    take = _accept_trio(listener) if _is_trio() else _accept_asyncio(listener)
    async with anyio.create_task_group() as tasks:
        while True:
            try:
                stream, host = await take()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    logger.warning("no connection can be accepted", extra={"reason": str(error)})
                    await anyio.sleep(ACCEPT_PAUSE)
            else:
                tasks.start_soon(handle, stream, host)


def _is_trio() -> bool:
    return anyio.get_cancelled_exc_class() is trio.Cancelled


def _accept_trio(listener: socket.socket) -> Callable[[], Awaitable[tuple[Any, str]]]:
    listening = trio.socket.from_stdlib_socket(listener)

    async def take() -> tuple[Any, str]:
        sock, address = await listening.accept()
        return trio.SocketStream(sock), str(address[0])

    return take


def _accept_asyncio(listener: socket.socket) -> Callable[[], Awaitable[tuple[Any, str]]]:
    import asyncio  # only backends run under it

    async def take() -> tuple[Any, str]:
        sock, address = await asyncio.get_running_loop().sock_accept(listener)
        return _AsyncioStream(*await asyncio.open_connection(sock=sock)), str(address[0])

    return take


class _AsyncioStream:
    """An asyncio connection as Trio has it."""

    def __init__(self, reader: Any, writer: Any) -> None:
        self._reader = reader
        self._writer = writer

    async def receive_some(self, max_bytes: int) -> bytes:
        data: bytes = await self._reader.read(max_bytes)
        return data

    async def send_all(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def aclose(self) -> None:
        self._writer.close()
        await anyio.lowlevel.checkpoint()


class HttpServer:
    """Serves an ASGI application to the connections of one listening socket."""

    def __init__(
        self,
        app: App,
        timeouts: Timeouts = Timeouts(),  # noqa: B008
        limit: int | None = None,
        address_share: int = ADDRESS_SHARE,
    ) -> None:
        self.counters = HttpCounters()
        self._app = app
        self._timeouts = timeouts
        self._connections = Connections(self.counters, limit, address_share)

    async def run(self, listener: socket.socket) -> None:
        """Accept and serve connections until cancelled. `listener` is not blocking."""
        server = listener.getsockname()[:2]
        with listener:
            await accept(listener, partial(self._handle, server))

    async def _handle(self, server: tuple[str, int], stream: Any, host: str) -> None:
        try:
            with self._connections.admit(host) as place:
                if place is not None:
                    peers = Peers((host, 0), server, "http")
                    await Http1Connection(self._app, stream, peers, self._timeouts, waiting=place.wait).run()
        except Exception:
            logger.exception("a connection failed")
        finally:
            await close(stream)


async def close(stream: Any) -> None:
    """Close a stream without waiting for the other side."""
    with anyio.CancelScope(shield=True):
        try:
            if isinstance(stream, trio.abc.Stream):
                await trio.aclose_forcefully(stream)
            else:
                await stream.aclose()
        except BROKEN:
            pass
