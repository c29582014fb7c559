"""Runs asynchronous code for the search: a whole connection, from the bytes of its peer to its end.

It measures the longest step between two turns of other tasks or, with `whole`, all work of a connection. Time is
virtual.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import trio
import trio.testing

from cost import work


class _Turns(trio.abc.Instrument):
    """Ends a step whenever another task is scheduled."""

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        work.step()


def run(action: Callable[..., Awaitable[object]], *arguments: Any, whole: bool = False) -> None:
    """Run an async function to its end. Raises TooExpensiveError, not wrapped in an exception group."""
    instruments = [] if whole else [_Turns()]
    clock = trio.testing.MockClock(autojump_threshold=0)
    try:
        trio.run(action, *arguments, clock=clock, instruments=instruments)
    except BaseExceptionGroup as group:
        if (exceeded := group.subgroup(work.TooExpensiveError)) is not None:
            raise work.TooExpensiveError(str(exceeded)) from None
        raise


class Feed(trio.abc.Stream):
    """A stream of Trio. Its peer sends an opening, which is not measured, then the input, and closes."""

    def __init__(self, data: bytes, *, opening: bytes = b"", read_size: int = 1 << 20) -> None:
        self._data = data
        self._opening = opening
        self._opened = not opening
        self._position = 0
        self._read_size = read_size
        self.sent = bytearray()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._opening:
            opening, self._opening = self._opening, b""
            return opening
        if not self._opened:
            self._opened = True
            await trio.testing.wait_all_tasks_blocked()
            work.begin()
        end = self._position + min(max_bytes or self._read_size, self._read_size)
        piece, self._position = self._data[self._position : end], end
        return piece

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if not self._opened:
            self.sent += data

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class AnyioFeed(anyio.abc.ByteStream):
    """The same for anyio. `opening` returns what the peer answers to what it was sent first."""

    def __init__(self, data: bytes, opening: Callable[[bytes], bytes]) -> None:
        self._feed = Feed(data, opening=b"-")
        self._opening: Callable[[bytes], bytes] | None = opening

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = await self._feed.receive_some(max_bytes)
        if self._opening is not None:
            opening, self._opening = self._opening, None
            return opening(bytes(self._feed.sent))
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        await self._feed.send_all(item)

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
