"""The shipped backends and the example as processes."""

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import pytest
import trio

from antiphon_backend import run_backend
from antiphon_backend.loopback import loopback
from antiphon_common import frames
from support.fakes.frame_end import transceiver_end
from support.processes.ports import free_port

REPOSITORY = Path(__file__).parents[3]


@asynccontextmanager
async def process(*command: str) -> AsyncIterator[tuple[trio.Process, str]]:
    """Run Python with arguments until its `ready` line; yield the process and the URL in that line."""
    async with trio.open_nursery() as nursery:
        start = partial(trio.run_process, [sys.executable, *command], stdout=subprocess.PIPE, check=False)
        running: trio.Process = await nursery.start(start)
        assert running.stdout is not None
        line = b""
        with trio.fail_after(20):
            while not line.endswith(b"\n"):
                line += await running.stdout.receive_some(100)
        assert line.startswith(b"ready ws://127.0.0.1:")
        yield running, line.split()[1].decode()
        nursery.cancel_scope.cancel()


ASYNCIO = "from antiphon_backend import {0}, run_backend; run_backend({0}.{0}, formats={0}.FORMATS, runtime='asyncio')"
"""A program that runs a shipped backend under asyncio."""


def shipped(name: str, runtime: str) -> tuple[str, ...]:
    """Return the arguments of Python that run a shipped backend."""
    return ("-m", f"antiphon_backend.{name}") if runtime == "trio" else ("-c", ASYNCIO.format(name))


@pytest.mark.parametrize("runtime", ["trio", "asyncio"])
@pytest.mark.parametrize("audio", ["pcm16/16000", "opus"])
async def test_loopback_returns_every_frame(audio: str, runtime: str) -> None:
    data = b"\x08 opus" if audio == "opus" else bytes(640)
    loopback = process(*shipped("loopback", runtime), "--listen", "127.0.0.1:0")
    async with loopback as (_, url), transceiver_end(url) as end:
        await end.send(frames.Started(1, "rtc_1", "acme", audio))
        await end.receive(frames.Accepted)
        await end.send(frames.Credit(1, 4000), *[frames.Audio(1, data, 960 * n) for n in range(10)])
        assert [frame.data for frame in await end.receive(frames.Audio, 10)] == [data] * 10


@pytest.mark.parametrize("runtime", ["trio", "asyncio"])
async def test_echo_has_slots_and_formats_and_ends_after_its_calls(runtime: str) -> None:
    options = ("--listen", "127.0.0.1:0", "--slots", "3", "--formats", "pcm16/16000")
    async with process(*shipped("echo", runtime), *options) as (running, url), transceiver_end(url) as end:
        assert await end.receive(frames.BackendHello) == [frames.BackendHello(frames.VERSION, 3, ("pcm16/16000",))]
        await end.send(frames.Started(1, "rtc_1", "acme", "pcm16/16000"))
        await end.receive(frames.Accepted)
        running.send_signal(signal.SIGTERM)
        await end.receive(frames.BackendDrain)
        await end.send(frames.Ended(1, "hangup"))
        with trio.fail_after(10):
            assert await running.wait() == 0


@pytest.mark.parametrize("runtime", ["trio", "asyncio"])
@pytest.mark.parametrize("first", [None, signal.SIGTERM])
async def test_an_interrupt_ends_a_backend_cleanly_with_live_calls(runtime: str, first: signal.Signals | None) -> None:
    program = process(*shipped("echo", runtime), "--listen", "127.0.0.1:0")
    async with program as (running, url), transceiver_end(url) as end:
        await end.send(frames.Started(1, "rtc_1", "acme", "pcm16/24000"))
        await end.receive(frames.Accepted)
        if first is not None:
            running.send_signal(first)
            await end.receive(frames.BackendDrain)
        running.send_signal(first or signal.SIGINT)
        with trio.fail_after(10):
            assert await running.wait() == 0


@pytest.mark.parametrize("runtime", ["trio", "asyncio"])
async def test_the_admin_port_exports_calls_and_a_drain(runtime: str) -> None:
    admin = free_port()
    options = ("--listen", "127.0.0.1:0", "--slots", "3", "--admin", f"127.0.0.1:{admin}")
    async with process(*shipped("echo", runtime), *options) as (running, url), transceiver_end(url) as end:
        assert (await get(admin, "/healthz"))[0] == (await get(admin, "/readyz"))[0] == 200
        await end.send(frames.Started(1, "rtc_1", "acme", "pcm16/24000"))
        await end.receive(frames.Accepted)
        metrics = (await get(admin, "/metrics"))[1]
        assert {"antiphon_backend_calls 1.0", "antiphon_backend_slots 3.0"} <= set(metrics.splitlines())
        assert {"antiphon_backend_calls_offered_total 1.0"} <= set(metrics.splitlines())
        running.send_signal(signal.SIGTERM)
        await end.receive(frames.BackendDrain)
        assert (await get(admin, "/healthz"))[0] == 200
        assert (await get(admin, "/readyz"))[0] == 503
        await end.send(frames.Ended(1, "hangup"))
        with trio.fail_after(10):
            assert await running.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--slots", "0"), "above 0"),
        (("--listen", "9000"), "a port too"),
        (("--drain", "-1"), "seconds"),
        (("--formats", "mp3"), "pcm16/24000"),
    ],
)
def test_invalid_arguments_are_reported_at_start(
    arguments: tuple[str, str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run_backend(loopback, argv=arguments)
    assert exit_info.value.code == 2
    assert hint in capsys.readouterr().err


async def get(port: int, path: str) -> tuple[int, str]:
    """Fetch a page of the admin port."""

    def fetch() -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, text

    return await trio.to_thread.run_sync(fetch)


async def test_the_example_beeps_listens_repeats_and_hangs_up() -> None:
    example = process(str(REPOSITORY / "examples/answering_machine.py"), "--listen", "127.0.0.1:0")
    async with example as (_, url), transceiver_end(url) as end:
        await end.send(frames.Started(1, "rtc_1", "acme", "pcm16/24000"), frames.Credit(1, 4000))
        beep = b"".join(frame.data for frame in await end.receive(frames.Audio, 13))
        assert len(beep) == 2 * 24000 // 4
        assert any(beep)
        said = [bytes([n % 256]) * 960 for n in range(150)]
        await end.send(frames.Credit(1, 4000), *[frames.Audio(1, data, n * 480) for n, data in enumerate(said)])
        assert [frame.data for frame in await end.receive(frames.Audio, 150)] == said
        assert await end.receive(frames.HangUp) == [frames.HangUp(1)]


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1:99999"])
def test_an_invalid_address_is_reported_in_one_line(listen: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "antiphon_backend.echo", "--listen", listen], capture_output=True, text=True, timeout=20
    )
    assert run.returncode == 2
    assert "--listen" in run.stderr.splitlines()[-1]
