"""Accepts HTTP/1.1 connections, under Trio or asyncio.

`http_connections` bounds them, `http1` answers their requests.
"""

import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import trio

from antiphon_common.shell.http1 import BROKEN, App, Http1Connection, Peers, Timeouts
from antiphon_common.shell.http_connections import Connections, ConnectionSlot, HttpCounters

ACCEPT_PAUSE = 0.1
"""Seconds before the next try when the process or the machine is out of descriptors or memory."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

logger = logging.getLogger(__name__)


async def accept(listener: socket.socket, handle: Callable[[Any, str], Coroutine[Any, Any, None]]) -> None:
    """Start a task with `handle(stream, address)` for each accepted connection, until cancelled.

    `stream` is a Trio SocketStream; under asyncio it has the same methods. `address` is the numeric source address.
    `listener` is not blocking.
    """
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
    """An asyncio connection with the methods of a Trio stream."""

    def __init__(self, reader: Any, writer: Any) -> None:
        self._reader = reader
        self._writer = writer
        writer.transport.set_write_buffer_limits(high=0)  # so that sending waits until the kernel has taken everything

    async def receive_some(self, max_bytes: int) -> bytes:
        data: bytes = await self._reader.read(max_bytes)
        return data

    async def send_all(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def aclose(self) -> None:
        self._writer.transport.abort()
        await anyio.lowlevel.checkpoint()


async def serve_connections(
    listener: socket.socket,
    connections: Connections,
    serve: Callable[[Any, str, ConnectionSlot], Coroutine[Any, Any, None]],
) -> None:
    """Call `serve(stream, address, slot)` for each accepted connection that is admitted, until cancelled.

    An exception in `serve` is logged, and the connection is closed then. `listener` is not blocking, and closed at the
    end.
    """

    async def handle(stream: Any, host: str) -> None:
        address = host.partition("%")[0]
        try:
            with connections.admit(address) as slot:
                if slot is not None:
                    await serve(stream, address, slot)
        except Exception:
            logger.exception("a connection failed")
        finally:
            await close(stream)

    with listener:
        await accept(listener, handle)


class HttpServer:
    """Serves an ASGI application to the connections of one listening socket. `run` serves until it is cancelled."""

    def __init__(
        self,
        app: App,
        timeouts: Timeouts = Timeouts(),  # noqa: B008
        limit: int | None = None,
        is_shared: Callable[[str], bool] = lambda host: False,
    ) -> None:
        self.counters = HttpCounters()
        self._app = app
        self._timeouts = timeouts
        self._connections = Connections(self.counters, limit, is_shared)

    async def run(self, listener: socket.socket) -> None:
        """Accept and serve connections until cancelled. `listener` is not blocking."""
        server = listener.getsockname()[:2]
        await serve_connections(listener, self._connections, partial(self._serve, server))

    async def _serve(self, server: tuple[str, int], stream: Any, address: str, slot: ConnectionSlot) -> None:
        peers = Peers((address, 0), server, "http")
        await Http1Connection(self._app, stream, peers, self._timeouts, waiting=slot.wait, pace=slot.pace).run()


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
