"""The Trio shell of one address of a backend: connects, runs the connection, and connects again."""

import logging
import random
import ssl
from collections.abc import Callable
from math import inf
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import anyio
import trio
from anyio.abc import ByteStream

from antiphon_common.settings import Address
from antiphon_common.shell.frame_pump import FramePump
from antiphon_common.shell.websocket import WebSocket, WebSocketClosed
from antiphon_transceiver.backends.connection import BackendConnection
from antiphon_transceiver.backends.selector import BackendSelector

log = logging.getLogger(__name__)

MAX_ADDRESSES = 64
"""Connections to one backend; what its name leads to beyond that is left out."""

CONNECT_TIMEOUT = 5.0
"""Seconds for TCP and TLS, and again for the WebSocket handshake."""

FIRST_BACKOFF = 0.1
MAX_BACKOFF = 5.0
"""Seconds between attempts to connect: doubled each time, and shortened at random by up to half so that transceivers
that lost a backend together do not come back together. A connection that lasted `MAX_BACKOFF` starts anew."""


class Endpoint(NamedTuple):
    """A backend's URL, taken apart. `tls` is None for `ws://`."""

    host: str
    port: int
    resource: str
    tls: ssl.SSLContext | None

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ValueError for what is no `ws://` or `wss://` URL."""
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError(f"the URL of a backend begins with ws:// or wss:// and names a host: {url!r}")
        tls = ssl.create_default_context() if parts.scheme == "wss" else None
        resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.hostname, parts.port or (443 if tls else 80), resource, tls)

    async def resolve(self) -> list[Address]:
        """Return the numeric addresses the name leads to now. Raises OSError."""
        found = await trio.socket.getaddrinfo(self.host, self.port, type=trio.socket.SOCK_STREAM)
        return list(dict.fromkeys(Address(str(entry[4][0]), int(entry[4][1])) for entry in found))[:MAX_ADDRESSES]

    async def connect(self, address: Address) -> WebSocket:
        """Connect, with TLS for a wss URL, and request a WebSocket; close the socket on failure.

        Raises OSError, TooSlowError, BrokenResourceError, or `WebSocketClosed`.
        """
        with trio.fail_after(CONNECT_TIMEOUT):
            stream = await self._open_stream(address)
        host = f"[{self.host}]" if ":" in self.host else self.host
        try:
            with trio.fail_after(CONNECT_TIMEOUT):
                return await WebSocket.connect(stream, f"{host}:{self.port}", self.resource)
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise

    async def _open_stream(self, address: Address) -> ByteStream:
        if self.tls is None:
            return await anyio.connect_tcp(*address)
        return await anyio.connect_tcp(
            *address, ssl_context=self.tls, tls_hostname=self.host, tls_standard_compatible=False
        )


class BackendDialer:
    """Keeps one address of a backend connected. `run` it; `flush` it when a call has queued something.

    `collected` is called after each input, when the selector may have deliveries.
    """

    def __init__(
        self,
        backend: str,
        endpoint: Endpoint,
        address: Address,
        selector: BackendSelector,
        collected: Callable[[float], None],
    ) -> None:
        self.connection: BackendConnection | None = None
        """None between two connections."""
        self.tried = trio.Event()
        """Set once the backend sent its hello, or the first attempt failed."""
        self._fields = {"backend": backend, "address": address}
        self._endpoint = endpoint
        self._address = address
        self._selector = selector
        self._collected = collected
        self._pump: FramePump | None = None
        self._scope = trio.CancelScope()
        self._wanted = True
        self._greeted_at: float | None = None
        self._last_failure = ""

    @property
    def wanted(self) -> bool:
        """Whether the backend's name leads here. If not, the connection goes once its last call is over."""
        return self._wanted

    @wanted.setter
    def wanted(self, wanted: bool) -> None:
        self._wanted = wanted
        if self.connection is not None:
            self.connection.wanted = wanted
        elif not wanted:
            self._scope.cancel()

    def flush(self) -> None:
        """Wake the writer if there is something to write."""
        if self._pump is not None and self.connection is not None and self.connection.pending:
            self._pump.wake()

    async def run(self) -> None:
        """Stay connected until cancelled or no longer wanted."""
        backoff = FIRST_BACKOFF
        with self._scope:
            while self._wanted:
                failure = await self._connect_once()
                self.tried.set()
                if failure != self._last_failure and self._wanted:
                    log.warning("no connection to backend", extra={**self._fields, "reason": failure})
                    self._last_failure = failure
                if self._greeted_at is not None and trio.current_time() >= self._greeted_at + MAX_BACKOFF:
                    backoff = FIRST_BACKOFF
                await trio.sleep(backoff * random.uniform(0.5, 1))
                backoff = min(2 * backoff, MAX_BACKOFF)

    async def _connect_once(self) -> str:
        """Connect, and serve the connection until it ends; return why it did, or why there was none."""
        self._greeted_at = None
        ending = ""
        try:
            ending = await self._serve(await self._endpoint.connect(self._address))
        except* Exception as errors:
            ending = _explain(errors)
        return ending

    async def _serve(self, websocket: WebSocket) -> str:
        """Run a connection until this end abandons it, and return why. Raises the error if it was lost."""
        connection = self.connection = BackendConnection(self._selector.counters, trio.current_time())
        connection.wanted = self._wanted
        self._selector.connections.append(connection)
        pump = self._pump = FramePump(websocket, connection, self._dispatch)
        try:
            await pump.run()
        finally:
            reason = connection.closing.detail if connection.closing is not None else "the connection ended"
            self.connection = self._pump = None
            if trio.current_effective_deadline() > -inf:
                self._lose(connection, reason)
            else:  # everything is being stopped
                self._selector.connections.remove(connection)
            await pump.close()
        return reason

    def _lose(self, connection: BackendConnection, reason: str) -> None:
        """Let the calls of a lost connection go on elsewhere, if they can."""
        if connection.calls:
            log.warning("backend lost", extra={**self._fields, "calls": connection.calls, "reason": reason})
        now = trio.current_time()
        self._selector.connection_lost(connection, now)
        self._collected(now)

    def _dispatch(self, now: float) -> None:
        connection = self.connection
        assert connection is not None
        if connection.greeted and self._greeted_at is None:
            self._greeted_at = now
            self._greet(connection, now)
        self._selector.collect(connection, now)
        self._collected(now)
        if not self._wanted and not connection.calls:
            self._scope.cancel()

    def _greet(self, connection: BackendConnection, now: float) -> None:
        self._last_failure = ""
        audio_format = connection.choose_format(self._selector.preferred_format)
        if audio_format is None:
            log.warning("backend takes no supported audio format", extra=self._fields)
        else:
            fields = {"slots": connection.free_slots(now), "audio": audio_format.name}
            log.info("backend connected", extra={**self._fields, **fields})
        self._selector.handle_timeout(now)
        self.tried.set()


def _explain(errors: BaseExceptionGroup[Exception]) -> str:
    """Return in a few words why a connection failed. A bug is logged with its traceback."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case WebSocketClosed():
            return str(error)
        case trio.TooSlowError():
            return f"no answer within {CONNECT_TIMEOUT:g} s"
        case OSError() | ssl.SSLError() | trio.BrokenResourceError():
            return str(error.__cause__ or error) or type(error).__name__
    log.error("the connection to a backend failed", exc_info=error)
    return type(error).__name__
