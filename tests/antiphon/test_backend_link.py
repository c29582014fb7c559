"""The transceiver's pool and the SDK, each the other's peer, over real WebSockets."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from antiphon_backend import Call, serve_backend
from antiphon_backend.loopback import FORMATS, loopback
from antiphon_common import frames
from antiphon_common.frames import CREDIT_MS
from antiphon_transceiver.backends import BackendCall, BackendPool, InboundFrame, NoCapacity


class Caller:
    """A call whose playout is instant: all audio is heard, and its credit given back."""

    def __init__(self, pool: BackendPool, name: str) -> None:
        self.frames: list[InboundFrame] = []
        self.audio: list[bytes] = []
        self.plays = True
        self._pool = pool
        self.call: BackendCall = pool.open(name, f"rtc_{name}", "acme", {}, {}, self._hear)

    def _hear(self, frame: InboundFrame, now: float) -> None:
        if isinstance(frame, frames.Audio):
            self.audio.append(frame.data)
            if self.plays:
                self.call.grant(20)
        elif isinstance(frame, frames.Clear):
            self.call.interrupted(frame.response, 7)
        else:
            self.frames.append(frame)

    def say(self, data: bytes, position: int) -> None:
        self.call.send_audio(data, position)
        self._pool.flush()


@asynccontextmanager
async def pooled(preferred: str = "pcm16/24000", **handlers: Callable[[Call], object]) -> AsyncIterator[BackendPool]:
    """Serve handlers, each as a backend of its own with two slots, and connect a pool to them."""
    async with trio.open_nursery() as nursery:
        urls = {}
        for name, handler in handlers.items():
            serve = partial(serve_backend, handler, "127.0.0.1", 0, slots=2, formats=FORMATS)  # type: ignore[arg-type]
            urls[name] = await nursery.start(serve)
        pool = BackendPool(urls, preferred)
        await nursery.start(pool.run)
        yield pool
        nursery.cancel_scope.cancel()


async def until(condition: Callable[..., object]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.002)


@pytest.mark.parametrize(("audio", "size", "step"), [("opus", 81, 960), ("pcm16/16000", 640, 320)])
async def test_loopback_returns_every_frame_beyond_any_one_credit(audio: str, size: int, step: int) -> None:
    async with pooled(audio, loopback=loopback) as pool:
        caller = Caller(pool, "loopback")
        assert caller.call.format == audio
        said = [b"\x08" + bytes([n % 256]) * (size - 1) for n in range(3 * CREDIT_MS // 20)]
        for index, data in enumerate(said):
            caller.say(data, index * step)
            if index % 100 == 99:  # two seconds: less than is dropped for a slow backend
                await until(lambda sent=index + 1: len(caller.audio) == sent)
        assert caller.audio == said
        caller.call.end("hangup")
        pool.flush()
        assert pool.free_slots("loopback") == 2


async def test_a_backend_that_talks_is_held_to_its_credit_until_audio_is_played() -> None:
    async def lecture(call: Call) -> None:
        await call.say(bytes(2 * 24000 * 10))

    async with pooled(lecture=lecture) as pool:
        caller = Caller(pool, "lecture")
        caller.plays = False
        await until(lambda: len(caller.audio) == CREDIT_MS // 20)
        await trio.sleep(0.05)
        assert len(caller.audio) == CREDIT_MS // 20
        caller.plays = True
        caller.call.grant(CREDIT_MS)
        pool.flush()
        await until(lambda: any(isinstance(frame, frames.HangUp) for frame in caller.frames))
        assert len(caller.audio) == 500


async def test_a_clear_comes_back_as_what_was_heard() -> None:
    heard: list[object] = []

    async def hasty(call: Call) -> None:
        await call.say(bytes(960))
        await call.clear()
        heard.append(await call.wait_interrupted())

    async with pooled(hasty=hasty) as pool:
        Caller(pool, "hasty")
        await until(lambda: heard)
    assert heard == [frames.Interrupted(1, 1, 7)]


async def test_a_failing_handler_takes_no_other_call_with_it() -> None:
    async def fragile(call: Call) -> None:
        async for audio in call:
            if audio.data[0] == 66:
                raise RuntimeError("planted")
            await call.say(audio.data)

    async with pooled(fragile=fragile) as pool:
        doomed, spared = Caller(pool, "fragile"), Caller(pool, "fragile")
        with pytest.raises(NoCapacity):
            Caller(pool, "fragile")
        doomed.say(b"B" * 960, 0)
        await until(lambda: any(isinstance(frame, frames.Ended) for frame in doomed.frames))
        spared.say(bytes(960), 0)
        await until(lambda: spared.audio)
        assert pool.free_slots("fragile") == 1
