"""Exit codes and signals of services as real processes."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from antiphon_common.shell.supervise import Drain

PROGRAM = """
import sys, trio
from antiphon_common.errors import AntiphonError
from antiphon_common.settings import SettingsError
from antiphon_common.shell import supervise

async def serve(kind, *, task_status):
    async with trio.open_nursery():
        if kind == "address in use":
            raise OSError(98, "cannot listen on 127.0.0.1:1")
        if kind == "missing file":
            open("/no/such/file")
        if kind == "settings":
            raise SettingsError("write it down")
        if kind == "bug":
            raise KeyError("bug")
        task_status.started("up")
        if kind == "late":
            raise OSError(5, "broke later")
        if kind == "returns":
            return
        try:
            await trio.sleep_forever()
        finally:
            if kind == "stuck":
                with trio.CancelScope(shield=True):
                    await trio.sleep_forever()
            print("put in order", flush=True)

supervise.SHUTDOWN_SECONDS = 0.2
supervise.run_service(serve, sys.argv[1], ready=lambda value: print(value, flush=True))
"""

DRAINING = """
import sys, anyio
from antiphon_common.shell.supervise import Drain, run_service

drain = Drain(float(sys.argv[2]))

async def serve(*, task_status):
    task_status.started("up")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drain.wait_left, lambda: sys.argv[3] == "idle", end)
        await drain.wait()
        print("drains", flush=True)

async def end():
    print("ends what runs", flush=True)

run_service(serve, ready=lambda value: print(value, flush=True), drain=drain, runtime=sys.argv[1])
"""


@contextmanager
def service(*kind: str, program: str = PROGRAM) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", program, *kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_service_cleanly(number: int) -> None:
    with service("runs") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.communicate(timeout=20) == ("put in order\n", "")
        assert process.returncode == 0


def test_a_service_that_does_not_end_is_killed() -> None:
    with service("stuck") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20) == ("", "the service did not end in time\n")
        assert process.returncode == 1


@pytest.mark.parametrize(
    ("kind", "code", "line"),
    [
        ("address in use", 1, "cannot start: cannot listen on 127.0.0.1:1\n"),
        ("missing file", 1, "cannot start: /no/such/file: No such file or directory\n"),
        ("settings", 2, "cannot start: write it down\n"),
        ("returns", 0, ""),
    ],
)
def test_the_reason_why_a_service_did_not_start_is_one_line(kind: str, code: int, line: str) -> None:
    with service(kind) as process:
        assert process.communicate(timeout=20)[1] == line
        assert process.returncode == code


@pytest.mark.parametrize("kind", ["bug", "late"])
def test_an_unexpected_exception_is_printed_with_its_traceback(kind: str) -> None:
    with service(kind) as process:
        assert "Traceback" in process.communicate(timeout=20)[1]
        assert process.returncode == 1


@pytest.mark.parametrize("runtime", ["trio", "asyncio"])
@pytest.mark.parametrize(
    ("seconds", "work", "said"), [("60", "idle", "drains\n"), ("0.2", "busy", "drains\nends what runs\n")]
)
def test_sigterm_starts_a_drain_with_a_deadline(runtime: str, seconds: str, work: str, said: str) -> None:
    with service(runtime, seconds, work, program=DRAINING) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20) == (said, "")
        assert process.returncode == 0


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]])
def test_a_second_signal_ends_a_drain_at_once(signals: list[signal.Signals]) -> None:
    with service("trio", "60", "busy", program=DRAINING) as process:
        assert process.stdout is not None
        for number, line in zip(signals, ["up\n", "drains\n"], strict=False):
            assert process.stdout.readline() == line
            process.send_signal(number)
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 0


async def test_a_drain_can_be_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    drain, ended = Drain(10.0), []

    async def end() -> None:
        ended.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain.wait_left, lambda: bool(ended), end)
        drain.begin()
        await trio.sleep(5)
        assert drain.cancel()
        await trio.sleep(100)
        assert (drain.begun, ended) == (False, [])
        drain.begin(1.0)
        await trio.sleep(100)
        assert len(ended) == 1
        drain.leave()
        assert not drain.cancel()
