"""A backend of the test's own: it greets, and then says and hears just what the test wants, over a real WebSocket."""

import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from antiphon_common import frames


class FakeBackend:
    """The backend's end of the latest connection. Pings are answered unless `stalled`."""

    def __init__(self, hello: frames.Frame) -> None:
        self.hello = hello
        self.url = ""
        self.port = 0
        self.stalled = False
        self.connections = 0
        self.closed_with: int | None = None
        self._heard: deque[Any] = deque()
        self._news = trio.lowlevel.ParkingLot()
        self._websocket: WebSocketConnection | None = None

    async def say(self, *batch: frames.Frame) -> None:
        await self.say_raw(frames.encode(batch))

    async def say_raw(self, message: bytes | str) -> None:
        assert self._websocket is not None
        await self._websocket.send_message(message)

    async def hear(self, kind: type, count: int = 1) -> list[Any]:
        """Return the next frames of one kind; what came before them is forgotten."""
        found: list[Any] = []
        with trio.fail_after(5):
            while len(found) < count:
                while not self._heard:
                    await self._news.park()
                frame = self._heard.popleft()
                if isinstance(frame, kind):
                    found.append(frame)
        return found

    async def close(self) -> None:
        """Close the connection as a backend does that stops."""
        assert self._websocket is not None
        await self._websocket.aclose(1001, "the backend stops")

    async def cut(self) -> None:
        """Break the connection without a word."""
        assert self._websocket is not None
        await trio.aclose_forcefully(self._websocket._stream)

    async def serve(self, request: WebSocketRequest) -> None:
        websocket = self._websocket = await request.accept()
        self.connections += 1
        try:
            await self.say(self.hello)
            while True:
                while self.stalled:
                    await trio.sleep(0.01)
                for frame in frames.decode(await websocket.get_message()):
                    if isinstance(frame, frames.Ping):
                        await self.say(frames.Pong(frame.number))
                    self._heard.append(frame)
                self._news.unpark_all()
        except ConnectionClosed as closed:
            self.closed_with = closed.reason.code if closed.reason else None


@asynccontextmanager
async def fake_backend(
    hello: frames.Frame, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[FakeBackend]:
    """Serve a backend on loopback for the length of a block."""
    backend = FakeBackend(hello)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, backend.serve, host, port, tls)
        backend.port = server.port
        backend.url = f"ws://{host}:{server.port}"
        yield backend
        nursery.cancel_scope.cancel()
