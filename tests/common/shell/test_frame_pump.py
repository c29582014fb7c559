"""The pump between a fake WebSocket and the core of a connection, under virtual time."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from math import inf

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from antiphon_common import frames
from antiphon_common.frame_connection import STEP_FRAMES, CloseCode, Closing, ConnectionCounters, FrameConnection
from antiphon_common.shell.frame_pump import CANCELLED_CLOSE_TIMEOUT, CLOSE_TIMEOUT, COALESCING_DELAY, FramePump

HELLO = frames.BackendHello(frames.VERSION)


class FakeCore:
    """A connection without calls."""

    def __init__(self) -> None:
        self.connection = FrameConnection(HELLO, ConnectionCounters(), trio.current_time())
        self.handle_timeout = self.connection.handle_timeout
        self.poll_transmit = self.connection.poll_transmit
        self.poll_timeout = self.connection.poll_timeout

    @property
    def closing(self) -> Closing | None:
        return self.connection.closing

    def receive_in_steps(self, message: bytes | str, now: float) -> Iterator[None]:
        return (None for _ in self.connection.receive_in_steps(message))


class Socket:
    """A fake WebSocket: its input, its sent messages with times, and its close. A close takes `closing_seconds`."""

    def __init__(self, closing_seconds: float = 0.0) -> None:
        self.sent: list[tuple[float, list[object]]] = []
        self.closed: tuple[int, str | None] | None = None
        self.deliver, self._inbox = trio.open_memory_channel[bytes | str](inf)
        self._closing_seconds = closing_seconds

    async def get_message(self) -> bytes | str:
        return await self._inbox.receive()

    async def send_message(self, message: bytes | str) -> None:
        assert isinstance(message, bytes)
        await trio.lowlevel.checkpoint()
        self.sent.append((trio.current_time(), list(frames.decode(message))))

    async def aclose(self, code: int = 1000, reason: str | None = None) -> None:
        self.closed = (code, reason)
        await trio.sleep(self._closing_seconds)


@asynccontextmanager
async def running(core: FakeCore, socket: Socket) -> AsyncIterator[FramePump]:
    pump = FramePump(socket, core, lambda now: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.run)
        await wait_all_tasks_blocked()
        yield pump
        nursery.cancel_scope.cancel()


async def test_the_first_frame_is_sent_at_once_and_following_ones_together(autojump_clock: MockClock) -> None:
    core, socket = FakeCore(), Socket()
    async with running(core, socket) as pump:
        await trio.sleep(0.5)
        start = trio.current_time()
        for number in range(4):
            core.connection.send(frames.Credit(number, 20))
            pump.wake()
            await trio.sleep(COALESCING_DELAY / 8)
        await trio.sleep(0.1)
    times = [time - start for time, batch in socket.sent[1:]]
    assert [len(batch) for _, batch in socket.sent] == [1, 1, 3]
    assert times == [pytest.approx(0), pytest.approx(COALESCING_DELAY)]


async def test_a_backlog_is_not_held_back(autojump_clock: MockClock) -> None:
    core, socket = FakeCore(), Socket()
    for _ in range(1000):
        core.connection.send(frames.Audio(1, bytes(1000)), 1000)
    start = trio.current_time()
    async with running(core, socket):
        await trio.sleep(2 * COALESCING_DELAY)
    assert sum(len(batch) for _, batch in socket.sent) == 1001
    assert socket.sent[-2][0] == start


async def test_a_missed_heartbeat_ends_the_pump_and_is_the_reason_of_the_close(autojump_clock: MockClock) -> None:
    core, socket = FakeCore(), Socket(closing_seconds=60)
    pump = FramePump(socket, core, lambda now: None)
    await socket.deliver.send(frames.encode([HELLO]))
    start = trio.current_time()
    await pump.run()
    assert trio.current_time() - start == pytest.approx(4)
    await pump.close()
    assert socket.closed == (CloseCode.HEARTBEAT_LOST, "nothing received after 3 pings")
    assert trio.current_time() - start == pytest.approx(4 + CLOSE_TIMEOUT)


async def test_errors_of_the_socket_are_raised_unchanged(autojump_clock: MockClock) -> None:
    socket = Socket()
    await socket.deliver.aclose()
    with pytest.raises(trio.EndOfChannel):
        await FramePump(socket, FakeCore(), lambda now: None).run()


async def test_a_cancelled_pump_sends_a_close_frame_and_does_not_wait(autojump_clock: MockClock) -> None:
    core, socket = FakeCore(), Socket(closing_seconds=60)
    pump = FramePump(socket, core, lambda now: None)
    start = trio.current_time()
    with trio.move_on_after(1):
        try:
            await pump.run()
        finally:
            await pump.close()
    assert socket.closed == (CloseCode.NORMAL, "")
    assert trio.current_time() - start == pytest.approx(1 + CANCELLED_CLOSE_TIMEOUT)


async def test_other_tasks_run_between_the_steps_of_a_message(autojump_clock: MockClock) -> None:
    core, socket = FakeCore(), Socket()
    turns = 0
    async with running(core, socket):
        await socket.deliver.send(frames.encode([HELLO, *[frames.Credit(1, 20)] * 50 * STEP_FRAMES]))
        while core.connection.counters.frames < 50 * STEP_FRAMES:
            await trio.lowlevel.checkpoint()
            turns += 1
    assert turns >= 45


async def test_other_tasks_run_between_many_messages(autojump_clock: MockClock) -> None:
    core, socket = FakeCore(), Socket()
    turns = 0
    async with running(core, socket):
        for message in (frames.encode([HELLO]), *[frames.encode([])] * 500):
            socket.deliver.send_nowait(message)
        while core.connection.counters.messages < 500:
            await trio.lowlevel.checkpoint()
            turns += 1
    assert turns >= 250
