"""The iterations of a paced loop: at once when idle, at ticks under load."""

import socket
from collections.abc import Iterator
from math import inf

import pytest
import trio
import trio.testing

from antiphon_common.shell.loop_pacer import TICK, LoopPacer


@pytest.fixture
def readable() -> Iterator[socket.socket]:
    """Return a socket on which a datagram waits."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        right.send(b"datagram")
        yield left


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        yield left


async def test_an_idle_loop_continues_at_once(readable: socket.socket, autojump_clock: trio.testing.MockClock) -> None:
    pacer = LoopPacer(readable.fileno())
    for _ in range(3):
        before = trio.current_time()
        await pacer.wait(inf, moved=True)
        assert trio.current_time() == before
        await trio.sleep(2 * TICK)


async def test_a_busy_loop_continues_at_the_next_tick(
    readable: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    pacer = LoopPacer(readable.fileno())
    for _ in range(2):
        await pacer.wait(inf, moved=True)
    for _ in range(3):
        before = trio.current_time()
        await pacer.wait(inf, moved=True)
        assert 0 < trio.current_time() - before <= TICK
        assert trio.current_time() / TICK == pytest.approx(round(trio.current_time() / TICK))


async def test_an_iteration_without_packets_ends_the_pacing(
    readable: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    pacer = LoopPacer(readable.fileno())
    for _ in range(3):
        await pacer.wait(inf, moved=True)
    before = trio.current_time()
    await pacer.wait(inf, moved=False)
    assert trio.current_time() == before


async def test_a_deadline_ends_the_wait_for_packets(
    silent: socket.socket, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    pacer = LoopPacer(silent.fileno())
    start = trio.current_time()
    await pacer.wait(start + 3.0, moved=False)
    assert trio.current_time() == pytest.approx(start + 3.0)

    async def hasten() -> None:
        await trio.sleep(1.0)
        pacer.wake_by(start + 5.0)
        pacer.wake_by(start + 6.0)

    nursery.start_soon(hasten)
    await pacer.wait(start + 60.0, moved=False)
    assert trio.current_time() == pytest.approx(start + 5.0)
