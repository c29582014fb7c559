"""One HTTP/1.1 connection (RFC 9112): h11 parses it, an ASGI application answers it. Runs under Trio or asyncio.

HTTP/2 is not supported: its preface is refused, and a request to upgrade to h2c is answered in HTTP/1.1. Every wait for
the client has a limit. Requests are read one after the other, so that a client has at most one in progress.
"""

import logging
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

import anyio
import h11
import trio

READ_BYTES = 16 * 1024
"""Bytes that are read at once. No more are buffered while a request is answered."""
MAX_HEAD = 16 * 1024
"""Bytes of a request line with its headers, or of a chunk's header."""
MAX_DISCARDED = 256 * 1024
"""Bytes of an unread body that are read and dropped, so that the client receives the answer."""

EMPTY_LINES = b"\r\n"
"""The characters of empty lines."""

MAX_PIECES = 4096
"""Largest number of pieces of a body: chunks, or the results of single reads. A body of 192 KiB has a dozen. In chunks
of one byte it would take seconds of work."""

PIECES_PER_REQUEST = 32
"""Pieces of a body that count as another request: each takes 30 µs. Other tasks run between them."""
HEADERS_PER_REQUEST = 128
"""Header fields that count as another request: 3,900 of them take 14 ms. Browsers and proxies send about 30."""

logger = logging.getLogger(__name__)

App = Callable[[Any, Any, Any], Awaitable[None]]
BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
"""Exceptions of a stream whose client has disconnected, or has exceeded a time limit (TimeoutError)."""


class ByteStream(Protocol):
    """A connected stream with the methods of Trio's streams. `Http1Connection` reads and writes it."""

    async def receive_some(self, max_bytes: int) -> bytes | bytearray: ...

    async def send_all(self, data: bytes) -> None: ...


class Timeouts(NamedTuple):
    """Time limits for each step of a client, in seconds. `Http1Connection` closes a connection that exceeds one."""

    head: float = 10.0
    """For a request's head, including the pause before it."""
    body: float = 15.0
    """For the body, from the end of the head on. An application may set a shorter limit."""
    write: float = 10.0
    """For the client to read one piece of a response."""
    discard: float = 1.0
    """For the rest of a body that the application did not read."""


class Peers(NamedTuple):
    """The addresses of both ends of a connection, and its scheme. `Http1Connection` puts them into ASGI scopes."""

    client: tuple[str, int]
    server: tuple[str, int]
    scheme: str


class Http1Connection:
    """One HTTP/1.1 connection of a client. `run` answers its requests with an ASGI application.

    `upgrades` returns True for requests that leave HTTP. `run` returns such a request, and its caller owns the
    connection then. `waiting` is called with True when the wait for a request begins, and with False when it ends.
    `pace` counts a request, and returns the seconds to wait before it is read.
    """

    def __init__(
        self,
        app: App,
        stream: ByteStream,
        peers: Peers,
        timeouts: Timeouts,
        *,
        upgrades: Callable[[h11.Request], bool] = lambda request: False,
        waiting: Callable[[bool], None] = lambda waits: None,
        pace: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.app = app
        self._stream = stream
        self.peers = peers
        self.timeouts = timeouts
        self._upgrades = upgrades
        self._waiting = waiting
        self._pace = pace
        self.parser = h11.Connection(h11.SERVER, MAX_HEAD)

    async def run(self) -> tuple[h11.Request, bytes] | None:
        """Answer requests until one side closes the connection, then return None.

        A request that leaves HTTP is returned at once, with its bytes and those after it.
        """
        try:
            while (request := await self._read_request()) is not None:
                if self._upgrades(request):
                    return request, _encode_head(request) + self.parser.trailing_data[0]
                if not await _Exchange(self, request).run():
                    break
                self._start_next_cycle()
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint)
        except BROKEN:
            pass
        return None

    async def _read_request(self) -> h11.Request | None:
        self._waiting(True)
        if (seconds := self._pace()) > 0:
            await anyio.sleep(seconds)
        with anyio.fail_after(self.timeouts.head):
            event = await self.next_event()
        self._waiting(False)
        if not isinstance(event, h11.Request):
            return None
        if event.http_version not in (b"1.0", b"1.1"):  # such as the preface of HTTP/2 (RFC 9113 §3.4)
            raise h11.RemoteProtocolError("this server speaks HTTP/1.1", error_status_hint=505)
        for _ in range(len(event.headers) // HEADERS_PER_REQUEST):
            await self.count_work()
        return event

    async def count_work(self) -> None:
        """Count work as another request, and wait as for one. Other tasks run in between."""
        await anyio.sleep(self._pace())

    async def next_event(self) -> Any:
        """Return the parser's next event, and read as needed.

        Raises:
            h11.RemoteProtocolError: the client has sent malformed HTTP.
            OSError, trio.BrokenResourceError, trio.ClosedResourceError: the client has disconnected.
        """
        while (event := self.parser.next_event()) is h11.NEED_DATA:
            data = bytes(await self._stream.receive_some(READ_BYTES))
            if data and self.parser.their_state is h11.IDLE and not self.parser.trailing_data[0]:
                data = data.lstrip(EMPTY_LINES)
                if not data:
                    continue
            self.parser.receive_data(data)
        return event

    def _start_next_cycle(self) -> None:
        """Prepare for the next request. Empty lines before it are skipped (RFC 9112 §2.2).

        Some clients send one after a body, which its length does not include.
        """
        self.parser.start_next_cycle()
        pipelined = self.parser.trailing_data[0]
        if pipelined[:1] and pipelined[:1] in EMPTY_LINES:
            self.parser = h11.Connection(h11.SERVER, MAX_HEAD)
            if rest := pipelined.lstrip(EMPTY_LINES):
                self.parser.receive_data(rest)

    async def send(self, event: Any) -> None:
        """Send one event.

        Raises:
            TimeoutError: the client does not read it in time.
            OSError, trio.BrokenResourceError, trio.ClosedResourceError: the client has disconnected.
        """
        data = self.parser.send(event)
        if data:
            with anyio.fail_after(self.timeouts.write):
                await self._stream.send_all(data)

    async def _refuse(self, status: int) -> None:
        """Answer a malformed request, then read and drop further data of the client."""
        if self.parser.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        try:
            await self.send(
                h11.Response(status_code=status, headers=[("content-length", "0"), ("connection", "close"), *_date()])
            )
            await self.send(h11.EndOfMessage())
            with anyio.move_on_after(self.timeouts.discard):
                for _ in range(MAX_DISCARDED // READ_BYTES):
                    if not await self._stream.receive_some(READ_BYTES):
                        break
        except BROKEN:
            pass


class _Exchange:
    """One request and its response, with the application's `receive` and `send`."""

    def __init__(self, connection: Http1Connection, request: h11.Request) -> None:
        self._connection = connection
        self._parser = connection.parser
        self._timeouts = connection.timeouts
        self._request = request
        self._body_due = anyio.current_time() + self._timeouts.body
        self._has_body = True
        self._gone = False
        self._pieces = 0
        self._answered = anyio.Event()

    async def run(self) -> bool:
        """Answer the request. Return True if another one may follow."""
        scope = _scope(self._request, self._connection.peers)
        try:
            await self._connection.app(scope, self.receive, self.send)
        except Exception:
            if not self._gone:  # Starlette has answered with 500 already
                logger.exception("a request failed")
                return False
        if not self._answered.is_set():
            return False
        if self._has_body:
            await self._discard_body()
        return bool(self._parser.our_state is h11.DONE and self._parser.their_state is h11.DONE)

    async def receive(self) -> dict[str, Any]:
        """Return the next piece of the body. After its end, wait until the response is sent; return the disconnect."""
        if self._gone:
            return {"type": "http.disconnect"}
        if not self._has_body:
            await self._answered.wait()
            return {"type": "http.disconnect"}
        try:
            with anyio.fail_after(max(0.0, self._body_due - anyio.current_time())):
                return await self._read_body()
        except (h11.RemoteProtocolError, *BROKEN):
            self._gone = True
            return {"type": "http.disconnect"}

    async def _read_body(self) -> dict[str, Any]:
        if self._parser.they_are_waiting_for_100_continue:
            await self._connection.send(h11.InformationalResponse(status_code=100, headers=[]))
        if (data := await self._next_piece()) is not None:
            return {"type": "http.request", "body": data, "more_body": True}
        self._has_body = False
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _next_piece(self) -> bytes | None:
        """Return the next piece of the body, or None after its end.

        Raises h11.RemoteProtocolError for too many pieces, since each costs much more than a byte.
        """
        event = await self._connection.next_event()
        if not isinstance(event, h11.Data):
            return None
        self._pieces += 1
        if self._pieces > MAX_PIECES:
            raise h11.RemoteProtocolError("the body comes in too many pieces")
        if not self._pieces % PIECES_PER_REQUEST:
            await self._connection.count_work()
        return bytes(event.data)

    async def send(self, message: dict[str, Any]) -> None:
        """Send a piece of the response. It has no effect once the client has disconnected."""
        if self._gone:
            return
        try:
            if message["type"] == "http.response.start":
                await self._send_head(message)
            elif message["type"] == "http.response.body":
                await self._send_body(message)
        except BROKEN:
            self._gone = True

    async def _send_head(self, message: dict[str, Any]) -> None:
        headers = [*message.get("headers", ()), *_date()]
        await self._connection.send(h11.Response(status_code=message["status"], headers=headers))

    async def _send_body(self, message: dict[str, Any]) -> None:
        body = message.get("body", b"")
        if body and self._request.method != b"HEAD":
            await self._connection.send(h11.Data(data=body))
        if not message.get("more_body", False):
            await self._connection.send(h11.EndOfMessage())
            self._answered.set()

    async def _discard_body(self) -> None:
        """Read and drop the rest of a body. If it is too long, the connection is not used again."""
        if self._parser.they_are_waiting_for_100_continue:
            return
        left = MAX_DISCARDED
        try:
            with anyio.move_on_after(self._timeouts.discard):
                while left > 0 and (data := await self._next_piece()) is not None:
                    left -= len(data)
        except (h11.RemoteProtocolError, *BROKEN):
            self._gone = True


def _scope(request: h11.Request, peers: Peers) -> dict[str, Any]:
    target = request.target
    if target.startswith((b"http://", b"https://")):  # the absolute form (RFC 9112 §3.2.2)
        target = b"/" + target.partition(b"://")[2].partition(b"/")[2]
    raw_path, _, query = target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": request.http_version.decode(),
        "method": request.method.decode().upper(),
        "scheme": peers.scheme,
        "path": unquote_to_bytes(raw_path).decode("utf-8", "replace"),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": list(request.headers),
        "client": peers.client,
        "server": peers.server,
    }


def _date() -> list[tuple[str, str]]:
    """Return the Date header, which an origin server with a clock sends (RFC 9110 §6.6.1)."""
    return [("date", formatdate(usegmt=True))]


def _encode_head(request: h11.Request) -> bytes:
    lines = [b"%s %s HTTP/%s" % (request.method, request.target, request.http_version)]
    lines += [b"%s: %s" % item for item in request.headers.raw_items()]
    return b"".join(line + b"\r\n" for line in [*lines, b""])
