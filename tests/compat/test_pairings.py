"""Services of the last release beside those of this tree: each pairing, as processes, with calls through them.

`nox -s compat` installs relay, transceiver, signaling and backend as of their last release, each in its own
environment, and names the folder of these in ANTIPHON_RELEASED.
"""

import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trio

from antiphon.shell.load_run import LoadSettings, run_load
from support.processes.services import Service

SERVICES = ("relay", "transceiver", "signaling", "backend")
MODULES = {name: f"antiphon_{name}" for name in SERVICES} | {"backend": "antiphon_backend.loopback"}
RELEASED = os.environ.get("ANTIPHON_RELEASED")

CALLS, SECONDS = 2, 2.0
HEARD = 0.9
"""Least share of packets that comes back. Loopback returns all of them, but a busy machine delays a few."""


def python_of(name: str, released: Collection[str]) -> str:
    """Return the Python interpreter of the service's environment, as released or of this tree."""
    if name not in released:
        return sys.executable
    assert RELEASED is not None, "run `nox -s compat`: it installs the released services"
    return str(Path(RELEASED) / name / "bin" / "python")


@contextmanager
def deployment(released: Collection[str], folder: Path) -> Iterator[str]:
    """Run the four services, those in `released` as released. Yield the URL of signaling."""
    secret = f"--secret-file={folder / 'secret'}"
    subprocess.run([sys.executable, "-m", "antiphon", "keygen", str(folder / "secret")], check=True)
    with ExitStack() as stack:

        def start(name: str, *arguments: str) -> str:
            service = Service(MODULES[name], *arguments, command=(python_of(name, released), "-I", "-m"))
            return stack.enter_context(service).wait_ready().ready

        admin = "--admin=127.0.0.1:0"
        backend = start("backend", "--listen=127.0.0.1:0")
        audio = ("--audio=opus", f"--backend=loopback={backend}")
        found = "--transceiver=" + start("transceiver", secret, "--control=127.0.0.1:0", *audio, admin)
        media = start("relay", secret, "--media=127.0.0.1:0", found, admin).split()[0].partition("=")[2]
        yield start("signaling", secret, "--http=127.0.0.1:0", f"--advertise={media}", found, admin)


def check_calls(url: str) -> None:
    """Make calls, and check that their audio comes back."""
    report = trio.run(run_load, LoadSettings(url, CALLS, SECONDS))
    for call in report.calls:
        assert call.failure is None
        assert call.received >= HEARD * call.sent > 0


@pytest.mark.parametrize("name", SERVICES)
def test_a_released_service_works_with_new_ones(name: str, tmp_path: Path) -> None:
    with deployment({name}, tmp_path) as url:
        check_calls(url)


@pytest.mark.parametrize("name", SERVICES)
def test_a_new_service_works_with_released_ones(name: str, tmp_path: Path) -> None:
    with deployment(set(SERVICES) - {name}, tmp_path) as url:
        check_calls(url)
