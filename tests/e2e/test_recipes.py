"""The README's recipes do what it says, as the very commands that stand there."""

import os
import random
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Playwright

from support.audio.correlation import Likeness, Samples, judge, write_wav
from support.peers.aiortc_peer import call_in_thread
from support.peers.browser import chromium
from support.processes.ports import free_port
from support.processes.recipes import ROOT, blocks, recipe
from support.processes.services import Service, all_in_one


@pytest.fixture
def host() -> str:
    """A loopback address of this test's own, where every port is free."""
    chance = random.Random(os.urandom(8))
    return f"127.{chance.randint(1, 254)}.{chance.randint(0, 254)}.{chance.randint(2, 254)}"


def test_this_laptop(host: str, tmp_path: Path, known: Samples) -> None:
    settings = {"HTTP": f"{host}:8080", "MEDIA": f"{host}:3478", "CONTROL": f"{host}:8090", "ADMIN": f"{host}:0"}
    with recipe("This laptop", tmp_path, {}, settings) as running:
        url = running.wait_for(r"^ready (http://\S+)/$")
        running.wait_for("(backend connected)")
        recording = call_in_thread(url, known, 3.0, "http")
    assert judge(recording.heard, recording.said, known).median > 0.5


def test_a_phone_on_the_lan(
    host: str, tmp_path: Path, playwright: Playwright, turns: Samples, turn_seconds: float
) -> None:
    """Chromium opens the address with the key, over TLS, and hears its turn."""
    settings = {"MEDIA": f"{host}:3478", "CONTROL": f"{host}:8090", "ADMIN": f"{host}:0"}
    microphone = write_wav(tmp_path / "turns.wav", turns)
    with (
        recipe("A phone on the LAN", tmp_path, {"8443": str(free_port())}, settings) as running,
        chromium(playwright, microphone, "--ignore-certificate-errors") as new_tab,
    ):
        port = running.wait_for(r"^ready https://\S+:(\d+)/$")
        key = Path(running.wait_for(r"the API key is in (\S+)")).read_text().strip()
        tab = new_tab()
        tab.page.goto(f"https://127.0.0.1:{port}/?processing=off#key={key}")
        tab.talk()
        assert key not in tab.page.url
        tab.start_recording()
        stereo = tab.recording(2.5 * turn_seconds + 3)
        tab.hang_up()
    likeness = judge(stereo.heard, stereo.said, turns)
    print(f"\necho over TLS, Chromium: {likeness}", end="")
    assert_echoed(likeness, turn_seconds)


def test_your_own_model(host: str, known: Samples) -> None:
    """The answering machine of the examples: it listens for three seconds before it says anything but a beep."""
    settings = {"HTTP": f"{host}:8080", "MEDIA": f"{host}:3478", "CONTROL": f"{host}:8090", "ADMIN": f"{host}:0"}
    elsewhere = {".py &": f".py --listen {host}:9000 &", "127.0.0.1": host}
    with recipe("Your own model", ROOT, elsewhere, settings) as running:
        url = running.wait_for(r"^ready (http://\S+)/$")
        running.wait_for("(backend connected)")
        recording = call_in_thread(url, known, 5.5, "websocket")
    likeness = judge(recording.heard, recording.said, known)
    assert likeness.best > 0.6
    assert 3.0 < likeness.delay < 4.0


def test_the_backend_in_the_readme(tmp_path: Path, known: Samples) -> None:
    program = tmp_path / "parrot.py"
    program.write_text(blocks("Your own model", "python")[0])
    with (
        Service(str(program), "--listen", "127.0.0.1:0", command=(sys.executable,)) as parrot,
        all_in_one(backend=f"mine={parrot.wait_ready().ready}") as deployment,
    ):
        recording = call_in_thread(deployment.url, known, 3.0, "http")
    assert judge(recording.heard, recording.said, known).median > 0.5


def test_the_services_apart(host: str, tmp_path: Path, turns: Samples, turn_seconds: float) -> None:
    settings = {"HTTP": f"{host}:8080", "ADMIN": f"{host}:0"}
    with recipe("The services apart", tmp_path, {"127.0.0.1": host}, settings) as running:
        url = running.wait_for(r"^ready (http://\S+:8080)/$")
        running.wait_for("(relay ready)")
        running.wait_for("(backend connected)")
        recording = call_in_thread(url, turns, 1.5 * turn_seconds, "http")
    assert_echoed(judge(recording.heard, recording.said, turns), turn_seconds)


def assert_echoed(likeness: Likeness, turn_seconds: float) -> None:
    """A whole second of the turn came back, as long after it as the pause that ends a turn, and a bit. The other
    windows are partly silence."""
    assert likeness.best > 0.6
    assert turn_seconds < likeness.delay < turn_seconds + 1.5
