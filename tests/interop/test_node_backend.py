"""A backend in another language, written from the specification alone, in real calls."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.audio.correlation import known_speech, measure
from support.peers.aiortc_peer import call_in_thread
from support.processes.services import Service, all_in_one, read_metrics

EXAMPLE = Path(__file__).parents[2] / "examples" / "node"
SECONDS = 8.0
MIN_CORRELATION = 0.8


@pytest.fixture(scope="session")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the example's program, in a separate folder with its dependencies installed."""
    missing = [package for package, program in (("nodejs", "node"), ("npm", "npm")) if shutil.which(program) is None]
    assert not missing, f"Debian packages are missing: apt-get install {' '.join(missing)}"
    folder = tmp_path_factory.mktemp("node")
    for file in ("package.json", "parrot.js"):
        shutil.copy(EXAMPLE / file, folder)
    install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--silent"]
    subprocess.run(install, cwd=folder, check=True, timeout=120)
    return str(folder / "parrot.js")


@contextmanager
def running(program: str, port: int = 0) -> Iterator[Service]:
    with Service(program, str(port), command=("node",)) as service:
        yield service.wait_ready()


def test_the_audio_of_a_caller_comes_back(parrot: str) -> None:
    known = known_speech()
    with running(parrot) as backend, all_in_one(backend=f"parrot={backend.ready}") as deployment:
        recording = call_in_thread(deployment.url, known, SECONDS, "http")
    likeness = measure(recording.received, recording.sent, known)
    print(f"\nnode: {likeness}", end="")
    assert likeness.median > MIN_CORRELATION


def test_a_call_continues_when_another_backend_takes_the_address_of_a_killed_one(parrot: str) -> None:
    known = known_speech()
    with ThreadPoolExecutor(1) as thread:
        victim = Service(parrot, "0", command=("node",)).wait_ready()
        with all_in_one(backend=f"parrot={victim.ready}") as deployment:
            call = thread.submit(call_in_thread, deployment.url, known, SECONDS, "http")
            while not deployment.calls():
                time.sleep(0.05)
            time.sleep(SECONDS / 4)
            os.kill(victim.pid, signal.SIGKILL)
            victim.stop(check=False)
            with running(parrot, int(victim.ready.rpartition(":")[2])):
                recording = call.result()
            figures = read_metrics(deployment.transceiver_admin)
    likeness = measure(recording.received, recording.sent, known)
    print(f"\nnode, killed once: {likeness}", end="")
    assert likeness.median > MIN_CORRELATION
    assert figures["antiphon_transceiver_backend_calls_resumed_total"] == 1
