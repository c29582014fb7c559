"""The server's end of a WebSocket (RFC 6455) over a byte stream of anyio: wsproto with a socket around it."""

from collections import deque
from typing import Self

import anyio
from anyio.abc import ByteStream
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from antiphon_common.errors import AntiphonError
from antiphon_common.frame_connection import CloseCode
from antiphon_common.frames import MAX_MESSAGE_SIZE

RECEIVE_BUFFER = 1 << 16
"""Bytes read from a socket at once: a whole message."""


class WebSocketClosed(AntiphonError):
    """The connection is closed, or never was one; the message says why."""


class WebSocket:
    """One connection. One task may receive and another send at the same time."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._protocol = WSConnection(ConnectionType.SERVER)
        self._events: deque[Event] = deque()
        self._message = bytearray()
        self._sending = anyio.Lock()

    @classmethod
    async def accept(cls, stream: ByteStream) -> Self:
        """Take the opening handshake of a client. Raises `WebSocketClosed` for anything else."""
        websocket = cls(stream)
        if not isinstance(await websocket._next_event(), Request):
            raise WebSocketClosed("the connection did not begin with a handshake")
        await websocket._send(AcceptConnection())
        return websocket

    async def get_message(self) -> bytes | str:
        """Return the next message. Raises `WebSocketClosed`."""
        while True:
            event = await self._next_event()
            if isinstance(event, BytesMessage | TextMessage):
                message = await self._assemble(event)
                if message is not None:
                    return message
            elif isinstance(event, Ping):
                await self._send(event.response())
            elif isinstance(event, CloseConnection):
                if self._protocol.state is ConnectionState.REMOTE_CLOSING:
                    await self._send(event.response())
                raise WebSocketClosed(f"closed with {int(event.code)} {event.reason or ''}".rstrip())

    async def send_message(self, message: bytes | str) -> None:
        """Send a message. Raises `WebSocketClosed`."""
        await self._send(BytesMessage(message) if isinstance(message, bytes) else TextMessage(message))

    async def aclose(self, code: int = 1000, reason: str | None = None) -> None:
        """Close the connection: say why, unless that was said already, and wait for the other end's answer."""
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
        """Add a piece to the message it belongs to; return that once it is complete."""
        data = event.data.encode() if isinstance(event, TextMessage) else event.data
        if len(self._message) + len(data) > MAX_MESSAGE_SIZE:
            await self._send(CloseConnection(CloseCode.TOO_BIG, "the message is too long"))
            raise WebSocketClosed("a message was too long")
        self._message += data
        if not event.message_finished:
            return None
        message, self._message = bytes(self._message), bytearray()
        return message.decode() if isinstance(event, TextMessage) else message

    async def _next_event(self) -> Event:
        while not self._events:
            try:
                data = await self._stream.receive(RECEIVE_BUFFER)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                raise WebSocketClosed("the connection broke") from None
            try:
                self._protocol.receive_data(data)
                self._events.extend(self._protocol.events())
            except RemoteProtocolError as error:
                if error.event_hint is not None:
                    await self._send(error.event_hint)
                raise WebSocketClosed(f"not the WebSocket protocol: {error}") from None
        return self._events.popleft()

    async def _send(self, event: Event) -> None:
        async with self._sending:
            try:
                await self._stream.send(self._protocol.send(event))
            except LocalProtocolError:
                raise WebSocketClosed("the connection is closed") from None
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                raise WebSocketClosed("the connection broke") from None
