"""The transceiver's backend pool and the SDK against each other, over real WebSockets."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from anyio.abc import TaskStatus

from antiphon_backend import Call, Handler, serve_backend
from antiphon_backend.loopback import FORMATS, loopback
from antiphon_common import frames
from antiphon_common.frames import CREDIT_MS
from antiphon_common.json_objects import pack
from antiphon_common.shell.supervise import Runtime
from antiphon_transceiver.backends import BackendCall, InboundFrame, NoCapacity
from antiphon_transceiver.shell.backend_dialer import Endpoint
from antiphon_transceiver.shell.backend_pool import BackendPool
from support.fakes.backend_calls import serving
from support.processes.waiting import until


class LinkCaller:
    """A call with instant playout, which returns all credit at once."""

    def __init__(self, pool: BackendPool, name: str) -> None:
        self.frames: list[InboundFrame] = []
        self.audio: list[bytes] = []
        self.plays = True
        self._pool = pool
        self.call: BackendCall = pool.open(name, f"rtc_{name}", "acme", {}, {})
        self._others = pool.received
        pool.received = self._receive

    def _receive(self, call: BackendCall, frame: InboundFrame, now: float) -> None:
        if call is not self.call:
            self._others(call, frame, now)
            return
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
async def pooled(
    preferred: str = "pcm16/24000", runtime: Runtime = "trio", **handlers: Handler
) -> AsyncIterator[BackendPool]:
    """Serve each handler as a backend with two slots, and connect a pool to them."""
    async with AsyncExitStack() as stack:
        urls = {}
        for name, handler in handlers.items():
            served = serving(handler, runtime=runtime, slots=2, formats=FORMATS)
            urls[name] = await stack.enter_async_context(served)
        nursery = await stack.enter_async_context(trio.open_nursery())
        pool = BackendPool(urls, preferred)
        await nursery.start(pool.run)
        yield pool
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("runtime", ["trio", "asyncio"])
@pytest.mark.parametrize(("audio", "size", "step"), [("opus", 81, 960), ("pcm16/16000", 640, 320)])
async def test_loopback_returns_more_frames_than_one_credit_allows(
    audio: str, size: int, step: int, runtime: Runtime
) -> None:
    async with pooled(audio, runtime, loopback=loopback) as pool:
        caller = LinkCaller(pool, "loopback")
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


async def test_a_backend_sends_no_more_than_its_credit_until_audio_is_played() -> None:
    async def lecture(call: Call) -> None:
        await call.say(bytes(2 * 24000 * 10))

    async with pooled(lecture=lecture) as pool:
        caller = LinkCaller(pool, "lecture")
        caller.plays = False
        await until(lambda: len(caller.audio) == CREDIT_MS // 20)
        await trio.sleep(0.05)
        assert len(caller.audio) == CREDIT_MS // 20
        caller.plays = True
        caller.call.grant(CREDIT_MS)
        pool.flush()
        await until(lambda: any(isinstance(frame, frames.HangUp) for frame in caller.frames))
        assert len(caller.audio) == 500


async def test_a_clear_returns_the_audio_played() -> None:
    heard: list[object] = []

    async def hasty(call: Call) -> None:
        await call.say(bytes(960))
        await call.clear()
        heard.append(await call.wait_interrupted())

    async with pooled(hasty=hasty) as pool:
        LinkCaller(pool, "hasty")
        await until(lambda: heard)
    assert heard == [frames.Interrupted(1, 1, 7)]


async def test_an_exception_of_a_handler_ends_only_its_call() -> None:
    async def fragile(call: Call) -> None:
        async for audio in call:
            if audio.data[0] == 66:
                raise RuntimeError("planted")
            await call.say(audio.data)

    async with pooled(fragile=fragile) as pool:
        doomed, spared = LinkCaller(pool, "fragile"), LinkCaller(pool, "fragile")
        with pytest.raises(NoCapacity):
            LinkCaller(pool, "fragile")
        doomed.say(b"B" * 960, 0)
        await until(lambda: any(isinstance(frame, frames.Ended) for frame in doomed.frames))
        spared.say(bytes(960), 0)
        await until(lambda: spared.audio)
        assert pool.free_slots("fragile") == 1


async def test_events_pass_in_both_directions() -> None:
    async def polite(call: Call) -> None:
        async for event in call.events():
            await call.send_event({"type": "thanks", "for": event["type"]})

    async with pooled(polite=polite) as pool:
        caller = LinkCaller(pool, "polite")
        caller.call.send_event({"type": "session.update", "session": {"voice": "alto"}})
        pool.flush()
        await until(lambda: any(isinstance(frame, frames.ServerEvent) for frame in caller.frames))
    assert caller.frames[-1] == frames.ServerEvent(1, pack({"type": "thanks", "for": "session.update"}))


class DialedAddress:
    """A backend at one address, which can be killed and started again."""

    def __init__(self, nursery: trio.Nursery, host: str) -> None:
        self.handled: list[Call] = []
        self._nursery = nursery
        self._host = host
        self._scope = trio.CancelScope()

    async def start(self, port: int = 0) -> int:
        """Serve calls by sending their audio back. Return the port."""
        url: str = await self._nursery.start(self._serve, port)
        return int(url.rpartition(":")[2])

    def kill(self) -> None:
        self._scope.cancel()

    async def _serve(self, port: int, *, task_status: TaskStatus[str]) -> None:
        with trio.CancelScope() as self._scope:
            await serve_backend(self._handle, self._host, port, slots=20, formats=FORMATS, task_status=task_status)

    async def _handle(self, call: Call) -> None:
        self.handled.append(call)
        await loopback(call)


async def test_twenty_calls_continue_while_backends_fail_in_succession(monkeypatch: pytest.MonkeyPatch) -> None:
    async with trio.open_nursery() as nursery:
        one, other = DialedAddress(nursery, "127.0.0.1"), DialedAddress(nursery, "127.0.0.2")
        port = await one.start()
        monkeypatch.setattr(Endpoint, "resolve", both(port))
        pool = BackendPool({"pair": f"ws://pair.test:{port}"}, "opus")
        await nursery.start(pool.run)
        callers = [LinkCaller(pool, "pair") for _ in range(20)]
        await other.start(port)
        await until(lambda: pool.free_slots("pair") == 20)
        said = 0
        for victim, survivor in ((one, other), (other, one)):
            said = await talk(callers, said, 25)
            survivor.handled.clear()
            victim.kill()
            said = await talk(callers, said, 25)
            await until(lambda to=survivor: len(to.handled) == 20)
            assert all(call.resumed_ms for call in survivor.handled)
            assert pool.counters.calls_lost == 0
            await victim.start(port)
            await until(lambda: pool.free_slots("pair") == 20)
        await until(lambda: all(caller.audio[-1:] == [packet(said - 1)] for caller in callers))
        for caller in callers:
            assert caller.audio == sorted(set(caller.audio)), "nothing twice or out of order"
            assert len(caller.audio) >= said - 10, "nothing lost but what a dying backend had and did not say"
            assert [type(frame) for frame in caller.frames].count(frames.Accepted) == 1
        nursery.cancel_scope.cancel()


def both(port: int) -> Callable[[Endpoint], Awaitable[list[tuple[str, int]]]]:
    async def resolve(endpoint: Endpoint) -> list[tuple[str, int]]:
        return [("127.0.0.1", port), ("127.0.0.2", port)]

    return resolve


def packet(number: int) -> bytes:
    """Return a valid Opus packet of 20 ms that contains a number."""
    return b"\x08" + number.to_bytes(4, "big")


async def talk(callers: list[LinkCaller], start: int, count: int) -> int:
    """Let all callers send numbered packets at twice real time. Return the next number."""
    for number in range(start, start + count):
        for caller in callers:
            caller.say(packet(number), number * 960)
        await trio.sleep(0.01)
    return start + count
