"""The one HTTP port: ends TLS, and gives each request to the application or, for an upgrade, to the WebSocket
handler."""

import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import h11
import trio

from antiphon_common.shell.http1 import BROKEN, App, Http1Connection, Peers, Timeouts
from antiphon_common.shell.http_connections import Connection, Connections, HttpCounters
from antiphon_common.shell.http_server import accept, close

HANDSHAKE_SECONDS = 10.0
"""How long a TLS handshake may take."""
CLOSE_SECONDS = 1.0
"""How long TLS's close_notify may take to leave."""

WEBSOCKET_BURST = 256 * 1024
WEBSOCKET_BYTES_PER_SECOND = 16 * 1024
"""Bytes of a WebSocket that are read at once, and how many more a second. An offer has a few thousand; a ping has six,
and costs as much as a packet of media."""

Upgraded = Callable[[trio.abc.Stream, h11.Request, str], Awaitable[None]]
"""Takes over a connection whose next bytes are a WebSocket request, given again, from a numeric address."""

logger = logging.getLogger(__name__)


class Listener:
    """Serves the connections of one listening socket until cancelled."""

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
        """`is_shared` tells of an address whether many callers have it, as behind a proxy."""
        self.counters = HttpCounters()
        self._app = app
        self._upgraded = upgraded
        self._tls = tls
        self._timeouts = timeouts
        self._connections = Connections(self.counters, limit, is_shared=is_shared)
        self._busy = 0

    def idle(self) -> bool:
        """Whether no request is in progress, and no WebSocket open."""
        return not self._busy

    async def run(self, listener: socket.socket) -> None:
        """Accept connections until cancelled. `listener` is not blocking."""
        with listener:
            await accept(listener, self._handle)

    async def _handle(self, stream: trio.SocketStream, host: str) -> None:
        peer = host.partition("%")[0]
        try:
            with self._connections.admit(peer) as place:
                if place is not None:
                    await self._serve(stream, peer, place)
        except Exception:
            logger.exception("a connection failed")
        finally:
            await close(stream)

    async def _serve(self, stream: trio.SocketStream, peer: str, place: Connection) -> None:
        try:
            peers = Peers((peer, 0), stream.socket.getsockname()[:2], "http" if self._tls is None else "https")
        except OSError:
            return  # it left before it was accepted
        if self._tls is not None:
            await trio.sleep(place.pace())
        secured = await self._secure(stream)
        if secured is None:
            return
        connection = Http1Connection(
            self._respond,
            secured,
            peers,
            self._timeouts,
            upgrades=_wants_websocket,
            waiting=place.wait,
            pace=place.pace,
        )
        upgrade = await connection.run()
        if upgrade is not None:
            with self._at_work():
                await self._upgraded(UpgradedStream(secured, upgrade[1], self._timeouts.write), upgrade[0], peer)
        if self._tls is not None:
            with trio.move_on_after(CLOSE_SECONDS), suppress(*BROKEN):
                await secured.aclose()

    async def _secure(self, stream: trio.SocketStream) -> trio.abc.Stream | None:
        """Return the stream to speak HTTP over, or None when there came no TLS handshake."""
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
    """A connection that left HTTP: gives first what was read already. A client that does not read what is sent to it
    for `write_seconds` is as good as gone."""

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
