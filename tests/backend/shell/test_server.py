"""The SDK over real WebSockets: handlers on one side, the frames of a transceiver on the other.

The handlers run under Trio and, in a thread, under asyncio. The test itself runs under Trio.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import anyio
import pytest
import trio
from trio.testing import MockClock

from antiphon_backend import Call, Handler, Interrupted, RefuseCall
from antiphon_backend.core import HANDLERS_PER_SLOT
from antiphon_backend.shell.server import GRACE, HANDSHAKE_TIMEOUT
from antiphon_common import frames
from antiphon_common.json_objects import pack
from antiphon_common.shell.supervise import Runtime
from support.fakes.backend_calls import serving
from support.fakes.frame_end import FrameEnd, transceiver_end

FRAME = bytes(960)
STARTED = frames.Started(1, "rtc_1", "acme", "pcm16/24000", pack({"model": "m", "voice": "v"}), pack({"user": "7"}))


@pytest.fixture(params=["trio", "asyncio"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """The runtimes under which the handlers of a test run."""
    chosen: Runtime = request.param
    return chosen


@asynccontextmanager
async def called(
    handler: Handler, runtime: Runtime = "trio", *, credit: int = frames.CREDIT_MS, started: frames.Started = STARTED
) -> AsyncIterator[FrameEnd]:
    """Serve a handler and start a call with credit."""
    async with serving(handler, runtime=runtime) as url, transceiver_end(url) as end:
        await end.send(started, frames.Credit(1, credit))
        yield end


async def loopback(call: Call) -> None:
    async for audio in call:
        await call.say(audio.data)


async def test_a_handler_receives_its_call_and_sends_audio(runtime: Runtime) -> None:
    seen: list[Call] = []

    async def handler(call: Call) -> None:
        seen.append(call)
        await loopback(call)

    async with called(handler, runtime) as end:
        await end.receive(frames.Accepted)
        await end.send(*[frames.Audio(1, bytes([index]) * 960, index * 480) for index in range(100)])
        assert await end.receive(frames.ResponseStarted) == [frames.ResponseStarted(1, 1)]
        back = await end.receive(frames.Audio, 100)
        assert [frame.data[0] for frame in back] == list(range(100))
        assert {frame.response for frame in back} == {1}
    assert (seen[0].id, seen[0].tenant, seen[0].format.name) == ("rtc_1", "acme", "pcm16/24000")
    assert (seen[0].session, seen[0].metadata) == ({"model": "m", "voice": "v"}, {"user": "7"})


async def test_audio_beyond_the_credit_waits_for_more_credit(runtime: Runtime) -> None:
    async def handler(call: Call) -> None:
        assert await call.say(bytes(960 * 100))

    async with called(handler, runtime, credit=1000) as end:
        assert len(await end.receive(frames.Audio, 50)) == 50
        await trio.testing.wait_all_tasks_blocked(0.02)
        await end.send(frames.Credit(1, 1000))
        assert len(await end.receive(frames.Audio, 50)) == 50
        assert await end.receive(frames.HangUp) == [frames.HangUp(1)]


async def test_an_interruption_ends_the_current_response(runtime: Runtime) -> None:
    outcomes: list[object] = []

    async def handler(call: Call) -> None:
        response = call.start_response()
        outcomes.append(await response.say(bytes(960 * 1000)))
        outcomes.append(await call.say(FRAME))
        outcomes.append(response.heard_ms)
        call.start_response()
        outcomes.append(await call.say(FRAME))
        outcomes.append(await call.wait_interrupted())

    async with called(handler, runtime) as end:
        await end.receive(frames.Audio, 200)
        await end.send(frames.Interrupted(1, 1, 1700), frames.Credit(1, 4000))
        assert await end.receive(frames.Audio) == [frames.Audio(1, FRAME, response=2)]
        await end.send(frames.Interrupted(1, 2, 5))
        await end.receive(frames.HangUp)
    assert outcomes == [False, False, 1700, True, Interrupted(1, 2, 5)]


async def test_an_exception_of_a_handler_ends_its_call_with_one_log_line(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(call: Call) -> None:
        async for audio in call:
            if call.id == "rtc_1":
                raise RuntimeError("planted")
            await call.say(audio.data)

    async with called(handler, runtime) as end:
        await end.send(frames.Started(2, "rtc_2", "acme", "pcm16/24000"), frames.Credit(2, 4000))
        await end.receive(frames.Accepted, 2)
        await end.send(frames.Audio(1, FRAME), frames.Audio(2, FRAME))
        assert await end.receive(frames.Ended) == [frames.Ended(1, "backend_error")]
        await end.send(frames.Audio(2, FRAME, 480))
        assert (await end.receive(frames.Audio))[0].call == 2
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.__dict__["call"] for record in errors] == ["rtc_1"]


async def test_a_call_is_refused_by_its_handler_or_by_one_that_returns_without_accepting(runtime: Runtime) -> None:
    async def picky(call: Call) -> None:
        if call.tenant == "acme":
            raise RefuseCall("unpaid", "the last invoice is open")

    async with called(picky, runtime) as end:
        assert await end.receive(frames.Refused) == [frames.Refused(1, "unpaid", "the last invoice is open")]
        await end.send(frames.Started(2, "rtc_2", "other", "pcm16/24000"))
        [refused] = await end.receive(frames.Refused)
        assert (refused.call, refused.code) == (2, "declined")


async def test_slots_are_enforced_over_all_connections() -> None:
    async with serving(loopback, slots=2) as url, transceiver_end(url) as one, transceiver_end(url) as other:
        await one.send(STARTED)
        await one.receive(frames.Accepted)
        await other.send(STARTED)
        await other.receive(frames.Accepted)
        await other.send(frames.Started(2, "rtc_2", "acme", "pcm16/24000"))
        assert [refused.code for refused in await other.receive(frames.Refused)] == ["full"]
        await one.cut()
        await other.send(frames.Ping(1))
        await other.receive(frames.Pong)
        with trio.fail_after(5):
            number = 2
            while True:
                number += 1
                await other.send(frames.Started(number, "rtc_3", "acme", "pcm16/24000"))
                answer = (await other.receive((frames.Accepted, frames.Refused)))[0]  # type: ignore[arg-type]
                if isinstance(answer, frames.Accepted):
                    break


async def test_receiving_ends_and_sending_fails_when_the_call_ends(runtime: Runtime) -> None:
    outcomes: list[object] = []

    async def handler(call: Call) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(speak, call)
            async for _ in call:
                pass
        outcomes.append(call.ended)

    async def speak(call: Call) -> None:
        outcomes.append(await call.say(bytes(960 * 1000)))

    async with called(handler, runtime) as end:
        await end.receive(frames.Audio, 200)
        await end.send(frames.Ended(1, "hangup"))
        with trio.fail_after(5):
            while len(outcomes) < 2:
                await trio.sleep(0.01)
    assert outcomes == [False, "hangup"]


async def test_events_pass_in_both_directions(runtime: Runtime) -> None:
    async def handler(call: Call) -> None:
        async for event in call.events():
            await call.send_event({"type": "heard", "event": event})

    async with called(handler, runtime) as end:
        await end.send(*[frames.ClientEvent(1, pack({"type": f"event {number}"})) for number in range(3)])
        assert await end.receive(frames.ServerEvent, 3) == [
            frames.ServerEvent(1, pack({"type": "heard", "event": {"type": f"event {number}"}})) for number in range(3)
        ]
        await end.send(frames.Ended(1, "hangup"), frames.Started(2, "rtc_2", "acme", "pcm16/24000"))
        assert await end.receive(frames.Accepted) == [frames.Accepted(2)]


async def test_events_carry_their_source_and_their_recipient(runtime: Runtime) -> None:
    async def handler(call: Call) -> None:
        events = call.events()
        async for event in events:
            await call.send_event(event, recipient=events.source)

    async with called(handler, runtime) as end:
        batch = [frames.ClientEvent(1, pack({"type": "x"}), source) for source in (0, 3)]
        await end.send(frames.SidebandAttached(1, 3), *batch)
        received = await end.receive(frames.ServerEvent, 2)
        assert [frame.recipient for frame in received] == [0, 3]


async def test_all_frames_of_a_call_arrive_in_one_order(runtime: Runtime) -> None:
    seen: list[object] = []

    async def handler(call: Call) -> None:
        await call.configure("server_vad")
        async for frame in call.frames():
            seen.append(frame)
        await call.send_transcript(1, "too late")

    turn = [frames.SpeechStarted(1, 1, 0), frames.Audio(1, FRAME), frames.SpeechStopped(1, 1, 20)]
    async with called(handler, runtime) as end:
        await end.receive(frames.Accepted)
        assert await end.receive(frames.Configure) == [frames.Configure(1, "server_vad")]
        await end.send(frames.ClientEvent(1, pack({"type": "x"}), 2), *turn)
        await end.send(frames.TurnCommitted(1, 1, 0, 20), frames.IdleTimeout(1, 20, 6020), frames.Ended(1, "hangup"))
        with trio.fail_after(5):
            while len(seen) < 6:
                await trio.sleep(0.01)
    expected = [({"type": "x"}, 2), *turn, frames.TurnCommitted(1, 1, 0, 20), frames.IdleTimeout(1, 20, 6020)]
    assert seen == expected


async def test_the_end_of_playout_can_be_awaited(runtime: Runtime) -> None:
    outcomes: list[object] = []

    async def handler(call: Call) -> None:
        first, second = call.start_response(), call.start_response()
        await second.say(FRAME)
        outcomes.append(await first.wait_played())
        outcomes.append(await second.wait_played())
        third = call.start_response()
        outcomes.append(await third.wait_played())
        outcomes.append(third.heard_ms)

    async with called(handler, runtime) as end:
        await end.receive(frames.Audio)
        await end.send(frames.Played(1, 1, 500))
        assert await end.receive(frames.ResponseEnded) == [frames.ResponseEnded(1, 2)]
        await end.send(frames.Playing(1, 2, 520), frames.Played(1, 2, 540))
        await end.receive(frames.ResponseEnded)
        await end.send(frames.Interrupted(1, 3, 0, turn=1))
        await end.receive(frames.HangUp)
    assert outcomes == [frames.Played(1, 1, 500), frames.Played(1, 2, 540), None, 0]


async def test_an_event_too_large_for_a_frame_raises_an_error_in_the_handler(runtime: Runtime) -> None:
    async def handler(call: Call) -> None:
        with pytest.raises(ValueError, match="bytes"):
            await call.send_event({"text": "x" * frames.MAX_EVENT_SIZE})
        await call.send_event({"text": "fine"})

    async with called(handler, runtime) as end:
        assert await end.receive(frames.ServerEvent) == [frames.ServerEvent(1, pack({"text": "fine"}))]


async def test_a_resumed_call_reports_its_position_and_may_clear_earlier_audio(runtime: Runtime) -> None:
    async def handler(call: Call) -> None:
        if call.resumed_ms == 61_000:
            await call.clear()
            async for audio in call:
                await call.say(audio.data)

    resumed = frames.Started(1, "rtc_1", "acme", "pcm16/24000", resumed_ms=61_000)
    async with called(handler, runtime, started=resumed) as end:
        await end.receive(frames.Accepted)
        await end.send(frames.Audio(1, FRAME, 61_000 * 24))
        assert await end.receive((frames.Clear, frames.Audio), 2) == [  # type: ignore[arg-type]
            frames.Clear(1, 0),
            frames.Audio(1, FRAME, response=1),
        ]


async def test_a_message_that_is_too_long_closes_its_connection(runtime: Runtime) -> None:
    async with serving(loopback, runtime=runtime) as url, transceiver_end(url) as end:
        await end.receive(frames.BackendHello)
        await end.send_raw(bytes(frames.MAX_MESSAGE_SIZE + 1))
        with trio.fail_after(5):
            while end.closed_with is None:
                await trio.sleep(0.01)
        assert end.closed_with == 1009


async def test_a_handler_that_does_not_stop_is_cancelled(mock_clock: MockClock) -> None:
    cancelled = trio.Event()
    mock_clock.rate = 20

    async def handler(call: Call) -> None:
        try:
            call.start_response()
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with called(handler) as end:
        await end.receive(frames.Accepted)
        before = trio.current_time()
        await end.send(frames.Ended(1, "hangup"))
        with trio.fail_after(3 * GRACE):
            await cancelled.wait()
        assert trio.current_time() - before >= GRACE


async def test_slow_handlers_of_ended_calls_are_bounded(runtime: Runtime) -> None:
    """A slot is free once its call has ended, while its handler may run for ten more seconds."""
    slots, running, most = 3, 0, 0

    async def slow(call: Call) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await anyio.sleep_forever()
        finally:
            running -= 1

    async with serving(slow, runtime=runtime, slots=slots) as url, transceiver_end(url) as end:
        for number in range(1, 41):
            started = frames.Started(number, f"rtc_{number}", "acme", "pcm16/24000")
            await end.send(started, frames.Ended(number, "hangup"))
        refused = await end.receive(frames.Refused, 40 - HANDLERS_PER_SLOT * slots)
        assert {frame.code for frame in refused} == {"full"}
        assert most == HANDLERS_PER_SLOT * slots


async def test_a_draining_backend_refuses_calls_and_waits_for_running_ones() -> None:
    drain = trio.Event()
    async with trio.open_nursery() as nursery, serving(loopback, drain=drain) as url, transceiver_end(url) as end:
        await end.send(STARTED)
        await end.receive(frames.Accepted)
        drain.set()
        await end.receive(frames.BackendDrain)
        await end.send(
            frames.Started(2, "rtc_2", "acme", "pcm16/24000"), frames.Credit(1, 4000), frames.Audio(1, FRAME)
        )
        assert [refused.code for refused in await end.receive(frames.Refused)] == ["draining"]
        await end.receive(frames.Audio)
        with pytest.raises(OSError, match=r"."):
            await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
        await end.send(frames.Ended(1, "hangup"))
        with trio.fail_after(5):
            while end.closed_with is None:
                await trio.sleep(0.01)
        assert end.closed_with == 1001
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01 what"])
async def test_a_client_that_is_not_a_transceiver_affects_no_call(runtime: Runtime, junk: bytes) -> None:
    async with serving(loopback, runtime=runtime) as url, transceiver_end(url) as end:
        unknown_client = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
        await unknown_client.send_all(junk)
        await end.send(STARTED, frames.Credit(1, 4000))
        await end.receive(frames.Accepted)
        await end.send_raw(b"\xc1 garbage")
        await end.send(frames.Audio(1, FRAME))
        await end.receive(frames.Audio)
        await unknown_client.aclose()


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: backend\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


async def answer_to(url: str, request: bytes) -> bytes:
    """Send raw bytes to a backend. Return the first line of its response."""
    async with await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2])) as stream:
        await stream.send_all(request)
        with trio.fail_after(5):
            answer = bytes(await stream.receive_some(4096))
    return answer.partition(b"\r\n")[0]


async def test_a_connection_of_a_web_page_is_refused(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    """A page may open a WebSocket to any address that its browser reaches, but cannot omit Origin."""
    async with serving(loopback, runtime=runtime) as url:
        answer = await answer_to(url, HANDSHAKE + b"Origin: https://evil.example\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert (await answer_to(url, HANDSHAKE + b"\r\n")).startswith(b"HTTP/1.1 101 ")
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("host", [b"\xff\xfe", b"x" * 10_000])
async def test_a_bad_handshake_logs_no_traceback(host: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(loopback) as url:
        with suppress(trio.BrokenResourceError):
            await answer_to(url, HANDSHAKE.replace(b"backend", host) + b"\r\n")
        async with transceiver_end(url) as end:
            await end.receive(frames.BackendHello)
    assert not [record for record in caplog.records if record.exc_info]


async def test_connections_without_frames_are_bounded_and_closed(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_clock.rate = 1
    monkeypatch.setattr("antiphon_backend.shell.server.MAX_CONNECTIONS", 8)
    async with serving(loopback) as url, transceiver_end(url) as end, AsyncExitStack() as idle:
        await end.receive(frames.BackendHello)
        port = int(url.rpartition(":")[2])
        streams = [await idle.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port)) for _ in range(8)]
        with trio.fail_after(HANDSHAKE_TIMEOUT / 2):
            assert await streams[-1].receive_some(1) == b"", "one connection too many"
        await end.send(STARTED)
        await end.receive(frames.Accepted)
        mock_clock.rate = 20
        with trio.fail_after(20 * HANDSHAKE_TIMEOUT):
            for stream in streams:
                assert await stream.receive_some(1) == b""
        mock_clock.rate = 1
        async with transceiver_end(url) as other:
            await other.receive(frames.BackendHello)


async def test_deep_nesting_in_one_frame_ends_its_call_and_no_other(runtime: Runtime) -> None:
    async with serving(loopback, runtime=runtime) as url, transceiver_end(url) as end:
        await end.send(STARTED, frames.Started(2, "rtc_2", "acme", "pcm16/24000"), frames.Credit(2, 4000))
        await end.receive(frames.Accepted, 2)
        nested = b"\x93\x10\x01\x81\xa1a" + b"\x91" * 100_000 + b"\xc0"
        await end.send_raw(b"\x92" + nested + bytes(frames.encode_frame(frames.Audio(2, FRAME))))
        assert await end.receive(frames.Ended) == [frames.Ended(1, "bad_frame")]
        assert await end.receive(frames.Audio) == [frames.Audio(2, FRAME, response=1)]
