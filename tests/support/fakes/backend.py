"""A fake backend over a real WebSocket."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio_websocket import WebSocketRequest, serve_websocket

from antiphon_common import frames
from support.fakes.frame_end import FrameEnd


class FakeBackend(FrameEnd):
    """The backend's end of the latest connection."""

    def __init__(self, hello: frames.Frame) -> None:
        super().__init__()
        self.hello = hello
        self.url = ""
        self.port = 0
        self.connections = 0

    async def close(self) -> None:
        """Close the connection like a backend that stops."""
        assert self.websocket is not None
        await self.websocket.aclose(1001, "the backend stops")

    async def serve(self, request: WebSocketRequest) -> None:
        websocket = self.websocket = await request.accept()
        self.connections += 1
        await self.send(self.hello)
        await self.listen(websocket)


@asynccontextmanager
async def fake_backend(
    hello: frames.Frame, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[FakeBackend]:
    """Serve a backend on loopback within the block."""
    backend = FakeBackend(hello)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, backend.serve, host, port, tls)
        backend.port = server.port
        backend.url = f"ws://{host}:{server.port}"
        yield backend
        nursery.cancel_scope.cancel()
