"""The services here run as real processes, because exit codes and signals are what is tested."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

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


@contextmanager
def service(kind: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", PROGRAM, kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(number: int) -> None:
    with service("runs") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.communicate(timeout=20) == ("put in order\n", "")
        assert process.returncode == 0


def test_what_does_not_end_is_ended() -> None:
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
def test_why_it_did_not_start_is_one_line(kind: str, code: int, line: str) -> None:
    with service(kind) as process:
        assert process.communicate(timeout=20)[1] == line
        assert process.returncode == code


@pytest.mark.parametrize("kind", ["bug", "late"])
def test_anything_else_keeps_its_traceback(kind: str) -> None:
    with service(kind) as process:
        assert "Traceback" in process.communicate(timeout=20)[1]
        assert process.returncode == 1
