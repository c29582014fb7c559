"""`python -m antiphon` as a process: its output and its end."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from antiphon.__main__ import COMMANDS, main
from support.peers.callers import calling
from support.processes.services import all_in_one

FREE_PORTS = {f"ANTIPHON_{name}": "127.0.0.1:0" for name in ("MEDIA", "HTTP", "CONTROL", "ADMIN")}


@contextmanager
def antiphon(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `python -m antiphon` on free ports."""
    command = [sys.executable, "-m", "antiphon", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | FREE_PORTS
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_line_is_printed_when_ready_and_the_process_ends_cleanly(number: int) -> None:
    with antiphon() as process:
        assert process.stdout is not None
        ready, url = process.stdout.readline().split()
        assert ready == "ready"
        with urllib.request.urlopen(url, timeout=20) as page:
            assert page.headers.get_content_type() == "text/html"
        process.send_signal(number)
        rest, log = process.communicate(timeout=20)
        assert (process.returncode, rest) == (0, "")
        assert "Traceback" not in log


def test_shipped_backends_run_within_the_process() -> None:
    with antiphon("--backend", "loopback", "--backend", "echo", "--log", "json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        log = process.communicate(timeout=20)[1]
    assert all(json.loads(line)["level"] == "info" for line in log.splitlines()), log


def test_all_in_one_contains_libopus() -> None:
    """It works in a process whose loader does not find the system's library."""
    script = """
import cffi
from antiphon_transceiver.audio import OpusDecoder, OpusEncoder, libopus
dlopen = cffi.FFI.dlopen
def missing(self, name, *rest):
    if name == libopus.SONAME:
        raise OSError(name)
    return dlopen(self, name, *rest)
cffi.FFI.dlopen = missing
print(len(OpusDecoder(24_000).decode(OpusEncoder(24_000).encode(bytes(960)))))
"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output == "960\n"


async def test_one_admin_port_exports_metrics_of_all_services_and_backends() -> None:
    with all_in_one("--backend", "echo", "--capacity", "7") as deployment:
        async with calling(deployment.url) as callers:
            call = await callers.call()
            await callers.wait_for_audio(call, 1)
            metrics = deployment.relay_metrics()
            call.hang_up()
    services = {name.split("_")[1] for name in metrics if name.startswith("antiphon_")}
    assert services > {"relay", "transceiver", "signaling", "backend"}
    assert [metrics[f"antiphon_backend_{what}"] for what in ("connections", "slots", "calls")] == [2, 14, 1]
    assert metrics["antiphon_backend_calls_offered_total"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["--backend", "parrot"], 2, "parrot=ws://HOST:PORT"),
        (["--secret-file", "absent"], 1, "absent: No such file"),
        (["--http", "8080"], 2, "--http"),
    ],
)
def test_the_reason_of_a_failed_start_is_one_line(arguments: list[str], code: int, hint: str) -> None:
    with antiphon(*arguments) as process:
        out, log = process.communicate(timeout=20)
    assert (process.returncode, out) == (code, "")
    assert hint in log.splitlines()[-1], log


def test_an_address_in_use_is_reported_with_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with antiphon("--http", address) as process:
            log = process.communicate(timeout=20)[1]
    assert process.returncode == 1
    assert log.splitlines()[-1].startswith(f"cannot start: cannot listen on {address}"), log


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--help"])
    text = capsys.readouterr().out
    assert exit_info.value.code == 0
    assert [name for name in COMMANDS if f"`{name}`" not in text] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([command, "--help"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: antiphon {command}")


def test_an_unknown_command_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["keygne"])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == "antiphon: there is no command 'keygne': try keygen, load, or --help\n"
