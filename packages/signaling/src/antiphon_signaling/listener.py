"""The one HTTP port: ends TLS, and gives each request to Hypercorn or, for an upgrade, to the WebSocket handler.

This is the only file that knows how Hypercorn's connections are made inside (`hypercorn.trio.tcp_server`, as of 0.17
and 0.18).
"""

import logging
import math
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

MAX_HEAD = 16 * 1024
"""Bytes of a request line with its headers."""
HEAD_SECONDS = 10.0
"""How long the TLS handshake, the first request's head, and the pause before each further head may take."""
MAX_CONNECTIONS = 2000
"""Connections at once; more are closed at once. Each costs a file descriptor and some 100 KiB."""

_END_OF_HEAD = re.compile(rb"\n\r?\n")

Upgraded = Callable[[trio.abc.Stream, h11.Request, str], Awaitable[None]]
"""Takes over a connection whose next bytes are a WebSocket request, given again, from a numeric address."""

logger = logging.getLogger(__name__)


class ListenerCounters:
    def __init__(self) -> None:
        self.connections = 0
        self.connections_refused = 0
        self.handshakes_failed = 0


class Listener:
    """Serves the connections of one listening socket until cancelled."""

    def __init__(self, app: Any, upgraded: Upgraded, tls: ssl.SSLContext | None) -> None:
        self.counters = ListenerCounters()
        self._app = ASGIWrapper(self._respond)
        self._respond_to = app
        self._upgraded = upgraded
        self._tls = tls
        self._open = 0
        self._busy = 0
        self._config = Config()
        self._config.errorlog = logging.getLogger("hypercorn.error")
        self._config.include_server_header = False
        self._config.keep_alive_timeout = HEAD_SECONDS
        self._config.h11_max_incomplete_size = MAX_HEAD

    def idle(self) -> bool:
        """Whether no request is in progress, and no WebSocket open."""
        return not self._busy

    async def run(self, listener: socket.socket) -> None:
        """Accept connections until cancelled. `listener` is not blocking."""
        async with trio.open_nursery() as nursery:
            listening = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
            await trio.serve_listeners(self._handle, [listening], handler_nursery=nursery)

    async def _handle(self, stream: trio.SocketStream) -> None:
        if self._open >= MAX_CONNECTIONS:
            self.counters.connections_refused += 1
            await trio.aclose_forcefully(stream)
            return
        self.counters.connections += 1
        self._open += 1
        try:
            await self._serve(stream)
        except Exception:
            logger.exception("a connection failed")
        finally:
            self._open -= 1
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            peer = str(stream.socket.getpeername()[0]).partition("%")[0]
        except OSError:
            return  # it left before it was accepted
        requests = await self._begin(stream)
        if requests is None:
            return
        if requests.upgrade is None:
            state = ConnectionState({})
            await TCPServer(self._app, self._config, requests.context, state, requests).run()  # type: ignore[arg-type]
        if requests.upgrade is not None:
            request = requests.hand_over()
            with self._at_work():
                await self._upgraded(requests, request, peer)

    async def _respond(self, scope: Any, receive: Any, send: Any) -> None:
        with self._at_work():
            await self._respond_to(scope, receive, send)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    async def _begin(self, stream: trio.SocketStream) -> "RequestStream | None":
        """Return the connection with its first head read, or None when there came none."""
        requests: RequestStream
        try:
            with trio.fail_after(HEAD_SECONDS):
                if self._tls is None:
                    requests = RequestStream(stream, stream.socket)
                else:
                    secure = trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)
                    await secure.do_handshake()
                    requests = SecureRequestStream(secure, stream.socket)
                await requests.read_head()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            self.counters.handshakes_failed += 1
            return None
        return requests


class RequestStream(trio.abc.Stream):
    """A connection as Hypercorn reads it: request after request, until one wants to upgrade. There it ends for
    Hypercorn, whose closing is then without effect, and goes on after `hand_over`."""

    def __init__(self, stream: trio.abc.Stream, sock: trio.socket.SocketType) -> None:
        self.socket = sock
        self.upgrade: h11.Request | None = None
        self.context = WorkerContext(None)
        self._stream = stream
        self._buffer = bytearray()
        self._due: float = 0
        """Bytes until the next head; infinite once requests cannot be told apart any more."""

    async def read_head(self) -> None:
        """Read up to the end of a request's head. What is too long for one, or none, is left to Hypercorn to refuse."""
        while (end := _END_OF_HEAD.search(self._buffer)) is None:
            data = b"" if len(self._buffer) > MAX_HEAD else await self._stream.receive_some()
            if not data:
                self._due = math.inf
                return
            self._buffer += data
        request = _parse_head(bytes(self._buffer[: end.end()]))
        if request is not None and _wants_websocket(request):
            self.upgrade = request
        self._due = end.end() + _body_size(request)

    def hand_over(self) -> h11.Request:
        """Return the request that wants to upgrade; from now on the stream gives it again, and all that follows."""
        assert self.upgrade is not None
        request, self.upgrade, self._due = self.upgrade, None, math.inf
        return request

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self.upgrade is None and self._due == 0:
            await self.read_head()
        if self.upgrade is None and not self._buffer:
            self._buffer += await self._stream.receive_some(max_bytes)
        if self.upgrade is not None or not self._buffer:
            await self.context.terminated.set()  # Hypercorn would wait for its keep-alive timer
            return b""
        size = int(min(len(self._buffer), self._due, max_bytes or math.inf))
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._due -= size
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        if self.upgrade is None:
            await self._stream.aclose()
        else:
            await trio.lowlevel.checkpoint()


class SecureRequestStream(RequestStream):
    """The same over TLS, with what Hypercorn asks of an SSLStream."""

    @property
    def transport_stream(self) -> "SecureRequestStream":
        return self

    async def do_handshake(self) -> None:
        """Nothing: it was done before the first head was read."""

    def selected_alpn_protocol(self) -> str:
        return "http/1.1"


def _parse_head(head: bytes) -> h11.Request | None:
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(head)
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request) else None


def _body_size(request: h11.Request | None) -> float:
    """Bytes behind a head. Where they are not announced, which takes a chunked body, nothing can be found after it."""
    if request is None or _values(request, b"transfer-encoding"):
        return math.inf
    sizes = _values(request, b"content-length")
    return int(sizes[0]) if sizes else 0


def _wants_websocket(request: h11.Request) -> bool:
    tokens = b",".join(_values(request, b"connection")).lower().split(b",")
    upgrade = b",".join(_values(request, b"upgrade")).strip().lower()
    return request.method == b"GET" and upgrade == b"websocket" and b"upgrade" in [token.strip() for token in tokens]


def _values(request: h11.Request, name: bytes) -> list[bytes]:
    return [value for given, value in request.headers if given == name]
