"""The HTTP port of signaling: terminates TLS, and passes requests to the application, upgrades to the WebSocket
handler."""

import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import h11
import trio

from antiphon_common.shell.http1 import BROKEN, App, Http1Connection, Peers, Timeouts
from antiphon_common.shell.http_connections import Connections, ConnectionSlot, HttpCounters
from antiphon_common.shell.http_server import serve_connections

HANDSHAKE_SECONDS = 10.0
"""Seconds that a TLS handshake may take."""
CLOSE_SECONDS = 1.0
"""Seconds that sending close_notify (RFC 8446 §6.1) may take."""

WEBSOCKET_BURST = 256 * 1024
WEBSOCKET_BYTES_PER_SECOND = 16 * 1024
"""Bytes of a WebSocket that are read at once, and rate per second after that. An offer has a few thousand bytes. A ping
has six, and costs as much as a media packet."""

Upgraded = Callable[[trio.abc.Stream, h11.Request, str], Awaitable[None]]
"""Serves a connection whose first bytes are a WebSocket request. Arguments: stream, request, numeric source address."""


class Listener:
    """Serves HTTP, WebSocket and TLS on one listening socket. `run` serves until it is cancelled."""

    def __init__(
        self,
        app: App,
        upgraded: Upgraded,
        tls: ssl.SSLContext | None,
        *,
        timeouts: Timeouts = Timeouts(),  # noqa: B008
        limit: int | None = None,
        is_shared: Callable[[str], bool] = lambda host: False,
    ) -> None:
        """`is_shared` returns True for addresses of many callers, such as a proxy's."""
        self.counters = HttpCounters()
        self._app = app
        self._upgraded = upgraded
        self._tls = tls
        self._timeouts = timeouts
        self._connections = Connections(self.counters, limit, is_shared=is_shared)
        self._busy = 0

    def idle(self) -> bool:
        """Return True if no request is in progress and no WebSocket is open."""
        return not self._busy

    async def run(self, listener: socket.socket) -> None:
        """Accept connections until cancelled. `listener` is not blocking."""
        await serve_connections(listener, self._connections, self._serve)

    async def _serve(self, stream: trio.SocketStream, peer: str, slot: ConnectionSlot) -> None:
        try:
            peers = Peers((peer, 0), stream.socket.getsockname()[:2], "http" if self._tls is None else "https")
        except OSError:
            return  # the client has closed the connection before it was accepted
        if self._tls is not None:
            await trio.sleep(slot.pace())
        secured = await self._secure(stream)
        if secured is None:
            return
        connection = Http1Connection(
            self._respond,
            secured,
            peers,
            self._timeouts,
            upgrades=_wants_websocket,
            waiting=slot.wait,
            pace=slot.pace,
        )
        upgrade = await connection.run()
        if upgrade is not None:
            with self._at_work():
                await self._upgraded(UpgradedStream(secured, upgrade[1], self._timeouts.write), upgrade[0], peer)
        if self._tls is not None:
            with trio.move_on_after(CLOSE_SECONDS), suppress(*BROKEN):
                await secured.aclose()

    async def _secure(self, stream: trio.SocketStream) -> trio.abc.Stream | None:
        """Return the stream for HTTP, or None if the TLS handshake failed."""
        if self._tls is None:
            return stream
        secure = trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)
        try:
            with trio.fail_after(HANDSHAKE_SECONDS):
                await secure.do_handshake()
        except (*BROKEN, trio.TooSlowError):
            self.counters.handshakes_failed += 1
            return None
        return secure

    async def _respond(self, scope: Any, receive: Any, send: Any) -> None:
        with self._at_work():
            await self._app(scope, receive, send)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1


class UpgradedStream(trio.abc.Stream):
    """A connection after its HTTP upgrade. Receiving returns first the bytes that the HTTP parser had read.

    A write raises BrokenResourceError if the client does not read for `write_seconds`.
    """

    def __init__(self, stream: trio.abc.Stream, read: bytes, write_seconds: float) -> None:
        self._allowance = float(WEBSOCKET_BURST)
        self._refilled = trio.current_time()
        self._stream = stream
        self._read = read
        self._write_seconds = write_seconds

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._read:
            data, self._read = self._read[:max_bytes], self._read[max_bytes or len(self._read) :]
            await trio.lowlevel.checkpoint()
            return data
        data = bytes(await self._stream.receive_some(max_bytes))
        await self._pace(len(data))
        return data

    async def _pace(self, size: int) -> None:
        now = trio.current_time()
        refilled = self._allowance + (now - self._refilled) * WEBSOCKET_BYTES_PER_SECOND
        self._allowance, self._refilled = min(WEBSOCKET_BURST, refilled) - size, now
        if self._allowance < 0:
            await trio.sleep(-self._allowance / WEBSOCKET_BYTES_PER_SECOND)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`.

        Raises:
            trio.BrokenResourceError: the client does not read.
        """
        try:
            with trio.fail_after(self._write_seconds):
                await self._stream.send_all(data)
        except trio.TooSlowError:
            raise trio.BrokenResourceError("the client does not read") from None

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        with trio.move_on_after(CLOSE_SECONDS):
            await self._stream.aclose()


def _wants_websocket(request: h11.Request) -> bool:
    tokens = b",".join(_values(request, b"connection")).lower().split(b",")
    upgrade = b",".join(_values(request, b"upgrade")).strip().lower()
    return request.method == b"GET" and upgrade == b"websocket" and b"upgrade" in [token.strip() for token in tokens]


def _values(request: h11.Request, name: bytes) -> list[bytes]:
    return [value for given, value in request.headers if given == name]
