"""One end of a connection with frames, controlled by a test."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from antiphon_common import frames


class FrameEnd:
    """The test's end of a connection. It answers pings. While `stalled` it reads nothing."""

    def __init__(self) -> None:
        self.stalled = False
        self.closed_with: int | None = None
        self.websocket: WebSocketConnection | None = None
        self._received: deque[Any] = deque()
        self._news = trio.lowlevel.ParkingLot()

    async def send(self, *batch: frames.Frame) -> None:
        await self.send_raw(frames.encode(batch))

    async def send_raw(self, message: bytes | str) -> None:
        assert self.websocket is not None
        await self.websocket.send_message(message)

    async def receive(self, kind: type, count: int = 1) -> list[Any]:
        """Return the next frames of one kind, and discard earlier frames."""
        found: list[Any] = []
        with trio.fail_after(5):
            while len(found) < count:
                while not self._received:
                    await self._news.park()
                frame = self._received.popleft()
                if isinstance(frame, kind):
                    found.append(frame)
        return found

    async def cut(self) -> None:
        """Close the transport without a closing handshake."""
        assert self.websocket is not None
        await trio.aclose_forcefully(self.websocket._stream)  # noqa: SLF001  # trio_websocket has no such method

    async def listen(self, websocket: WebSocketConnection) -> None:
        """Read until the connection is closed."""
        self.websocket = websocket
        try:
            while True:
                while self.stalled:
                    await trio.sleep(0.01)
                message = await websocket.get_message()
                assert isinstance(message, bytes)
                for frame in frames.decode(message):
                    if isinstance(frame, frames.Ping):
                        await self.send(frames.Pong(frame.number))
                    self._received.append(frame)
                self._news.unpark_all()
        except ConnectionClosed as closed:
            self.closed_with = closed.reason.code if closed.reason else None


@asynccontextmanager
async def transceiver_end(url: str) -> AsyncIterator[FrameEnd]:
    """Connect to a backend as a transceiver does and send a hello. Close the connection after the block."""
    end = FrameEnd()
    async with open_websocket_url(url, disconnect_timeout=0.5) as websocket, trio.open_nursery() as nursery:
        end.websocket = websocket
        await end.send(frames.BackendHello(frames.VERSION))
        nursery.start_soon(end.listen, websocket)
        try:
            yield end
        finally:
            # In this order: what is awaited in a cancelled nursery raises Cancelled in place of the test's failure.
            await end.cut()
            nursery.cancel_scope.cancel()
