"""Either end of a WebSocket (RFC 6455) over a byte stream of anyio. wsproto implements the protocol.

No extension is negotiated. Without compression, a small message can never become a large one.
"""

import re
from collections.abc import Iterator
from typing import Self

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from antiphon_common.errors import AntiphonError
from antiphon_common.frame_connection import CloseCode
from antiphon_common.frames import MAX_MESSAGE_SIZE

RECEIVE_BUFFER = 1 << 16
"""Bytes that are read from a socket at once: a whole message."""

HANDSHAKE_BUFFER = 1 << 11
"""Bytes that are read at once during the opening handshake."""

MAX_HANDSHAKE = 1 << 13
"""Largest handshake of the other end in bytes: a request or a response with its headers. Proxies need less than
4 KiB."""

MAX_HOST = 255
"""Largest Host header of a request in bytes: a domain name (RFC 1035 §2.3.4). wsproto decodes it as IDNA in quadratic
time: 90 ms for 8 KiB."""

MAX_FRAMES = 1024
"""WebSocket frames (RFC 6455 §5.2) up to the end of a message: its fragments, and the pings and pongs between them. The
longest message may have fragments of 1 KiB."""

STEP_FRAMES = 32
"""WebSocket frames after which other tasks run: about 0.3 ms."""


_LONG_HOST = re.compile(rb"(?i)\nhost[ \t]*:[ \t]*[^\r\n]{%d}" % (MAX_HOST + 1))


class WebSocketClosed(AntiphonError):
    """The connection is closed, or was not established. `WebSocket` raises it; the message contains the reason."""


class WebSocketRejected(WebSocketClosed):
    """A server answered the handshake with another status than 101, which is `status`. `connect` raises it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"answered HTTP {status} where a WebSocket was asked for")
        self.status = status


class WebSocket:
    """One WebSocket connection. `accept` and `connect` make it, and `aclose` ends it.

    One task may receive while others send.
    """

    def __init__(self, stream: ByteStream, kind: ConnectionType) -> None:
        self._stream = stream
        self._protocol = WSConnection(kind)
        self._incoming: Iterator[Event] = iter(())
        self._handshake = b""
        self._frames = 0  # since a message was complete
        self._step = 0  # frames since other tasks had their turn
        self._message = bytearray()
        self._sending = anyio.Lock()

    @classmethod
    async def accept(cls, stream: ByteStream) -> Self:
        """Accept the opening handshake of a client.

        A request with an Origin comes from a web page (RFC 6454 §7.3) and is answered by 403. Browsers let every page
        connect to every address, but no page needs a backend.

        Raises:
            WebSocketClosed: the client sent anything else, or disconnected.
        """
        websocket = cls(stream, ConnectionType.SERVER)
        request = await websocket._next_event()
        if not isinstance(request, Request):
            raise WebSocketClosed("the connection did not begin with a handshake")
        if any(name.lower() == b"origin" for name, _ in request.extra_headers):
            await websocket._send(RejectConnection(status_code=403))
            raise WebSocketClosed("a web page asked for the connection")
        await websocket._send(AcceptConnection())
        return websocket

    @classmethod
    async def connect(cls, stream: ByteStream, host: str, resource: str) -> Self:
        """Send the opening handshake to a server. `host` is the value of the Host header.

        Raises:
            WebSocketRejected: the server answered with another status than 101. The body is not read.
            WebSocketClosed: the server did not answer.
        """
        websocket = cls(stream, ConnectionType.CLIENT)
        await websocket._send(Request(host=host, target=resource))
        answer = await websocket._next_event()
        if isinstance(answer, RejectConnection):
            raise WebSocketRejected(answer.status_code)
        if not isinstance(answer, AcceptConnection):
            raise WebSocketClosed("the handshake was not answered")
        return websocket

    async def get_message(self) -> bytes | str:
        """Return the next message. Raises WebSocketClosed when the connection is closed."""
        while True:
            event = await self._next_event()
            if isinstance(event, BytesMessage | TextMessage):
                message = await self._assemble(event)
                if message is not None:
                    return message
                await self._count_frame(event.frame_finished)
            elif isinstance(event, CloseConnection):
                await self._closed(event)
            else:
                await self._count_frame(True)
                if isinstance(event, Ping):
                    await self._send(event.response())

    async def send_message(self, message: bytes | str) -> None:
        """Send a message. Raises WebSocketClosed when the connection is closed."""
        await self._send(BytesMessage(message) if isinstance(message, bytes) else TextMessage(message))

    async def aclose(self, code: int = 1000, reason: str | None = None) -> None:
        """Close the connection. Send a close frame, unless one was sent, and wait for the answer (RFC 6455 §7.1.2)."""
        try:
            if self._protocol.state is ConnectionState.OPEN:
                await self._send(CloseConnection(code, reason))
            while self._protocol.state is ConnectionState.LOCAL_CLOSING:
                await self._next_event()
        except WebSocketClosed:
            pass
        finally:
            await self._stream.aclose()

    async def _assemble(self, event: BytesMessage | TextMessage) -> bytes | str | None:
        """Add a fragment to its message. Return the message once it is complete, otherwise None."""
        data = event.data.encode() if isinstance(event, TextMessage) else event.data
        if len(self._message) + len(data) > MAX_MESSAGE_SIZE:
            await self._give_up(CloseCode.TOO_BIG, "the message is too long")
        self._message += data
        if not event.message_finished:
            return None
        message, self._message = bytes(self._message), bytearray()
        self._frames = 0
        return message.decode() if isinstance(event, TextMessage) else message

    async def _count_frame(self, finished: bool) -> None:
        self._frames += finished
        if self._frames > MAX_FRAMES:
            await self._give_up(CloseReason.POLICY_VIOLATION, f"more than {MAX_FRAMES} WebSocket frames and no message")

    async def _give_up(self, code: int, detail: str) -> None:
        await self._send(CloseConnection(code, detail))
        raise WebSocketClosed(detail)

    async def _closed(self, event: CloseConnection) -> None:
        """Answer the close of the other end, or close after a protocol error (RFC 6455 §7.1.7). Raises
        WebSocketClosed."""
        if self._protocol.state is ConnectionState.REMOTE_CLOSING:
            await self._send(event.response())
        elif self._protocol.state is ConnectionState.OPEN:
            await self._give_up(event.code, f"not the WebSocket protocol: {event.reason}")
        raise WebSocketClosed(f"closed with {int(event.code)} {event.reason or ''}".rstrip())

    async def _next_event(self) -> Event:
        """Return the next event. It is parsed only now. Raises WebSocketClosed when the connection is closed."""
        while True:
            self._step += 1
            if self._step > STEP_FRAMES:
                self._step = 0
                await checkpoint()
            event = next(self._incoming, None)
            if event is not None:
                return event
            await self._receive()

    async def _receive(self) -> None:
        opening = self._protocol.state is ConnectionState.CONNECTING
        try:
            data = await self._stream.receive(HANDSHAKE_BUFFER if opening else RECEIVE_BUFFER)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise WebSocketClosed("the connection broke") from None
        self._step = 0
        if opening:
            self._check_handshake(data)
        try:
            self._protocol.receive_data(data)
        except RemoteProtocolError as error:
            if error.event_hint is not None and not self._protocol.client:
                await self._send(error.event_hint)
            raise WebSocketClosed(f"not the WebSocket protocol: {error}") from None
        except UnicodeError:
            raise WebSocketClosed("not the WebSocket protocol: a header that is no text") from None
        self._incoming = self._protocol.events()

    def _check_handshake(self, data: bytes) -> None:
        self._handshake += data
        if len(self._handshake) > MAX_HANDSHAKE:
            raise WebSocketClosed(f"a handshake of more than {MAX_HANDSHAKE} bytes")
        if _LONG_HOST.search(self._handshake):
            raise WebSocketClosed(f"a Host of more than {MAX_HOST} bytes")

    async def _send(self, event: Event) -> None:
        async with self._sending:
            try:
                await self._stream.send(self._protocol.send(event))
            except LocalProtocolError:
                raise WebSocketClosed("the connection is closed") from None
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                raise WebSocketClosed("the connection broke") from None
