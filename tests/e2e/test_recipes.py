"""The README's recipes work as written."""

import os
import random
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Playwright

from support.audio.correlation import Likeness, Samples, measure, write_wav
from support.peers.aiortc_peer import call_in_thread
from support.peers.browser import chromium
from support.processes.ports import free_port
from support.processes.recipes import ROOT, blocks, recipe
from support.processes.services import Service, all_in_one


@pytest.fixture
def host() -> str:
    """A random loopback address, on which every port is free."""
    chance = random.Random(os.urandom(8))
    return f"127.{chance.randint(1, 254)}.{chance.randint(0, 254)}.{chance.randint(2, 254)}"


def test_the_recipe_this_laptop_returns_audio(host: str, tmp_path: Path, known: Samples) -> None:
    settings = {"HTTP": f"{host}:8080", "MEDIA": f"{host}:3478", "CONTROL": f"{host}:8090", "ADMIN": f"{host}:0"}
    with recipe("This laptop", tmp_path, {}, settings) as running:
        url = running.wait_for(r"^ready (http://\S+)/$")
        running.wait_for("(backend connected)")
        recording = call_in_thread(url, known, 3.0, "http")
    assert measure(recording.received, recording.sent, known).median > 0.5


def test_the_recipe_a_phone_on_the_lan_returns_audio_over_tls(
    host: str, tmp_path: Path, playwright: Playwright, turns: Samples, turn_seconds: float
) -> None:
    """Chromium opens the address with the key, over TLS, and its turn comes back."""
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
    likeness = measure(stereo.received, stereo.sent, turns)
    print(f"\necho over TLS, Chromium: {likeness}", end="")
    assert_echoed(likeness, turn_seconds)


def test_the_recipe_your_own_model_answers_after_three_seconds(host: str, known: Samples) -> None:
    """The answering machine of the examples records for three seconds after its beep, then plays the recording."""
    settings = {"HTTP": f"{host}:8080", "MEDIA": f"{host}:3478", "CONTROL": f"{host}:8090", "ADMIN": f"{host}:0"}
    elsewhere = {".py &": f".py --listen {host}:9000 &", "127.0.0.1": host}
    with recipe("Your own model", ROOT, elsewhere, settings) as running:
        url = running.wait_for(r"^ready (http://\S+)/$")
        running.wait_for("(backend connected)")
        recording = call_in_thread(url, known, 5.5, "websocket")
    likeness = measure(recording.received, recording.sent, known)
    assert likeness.best > 0.6
    assert 3.0 < likeness.delay < 4.0


def test_the_backend_in_the_readme_returns_audio(tmp_path: Path, known: Samples) -> None:
    program = tmp_path / "parrot.py"
    program.write_text(blocks("Your own model", "python")[0])
    with (
        Service(str(program), "--listen", "127.0.0.1:0", command=(sys.executable,)) as parrot,
        all_in_one(backend=f"mine={parrot.wait_ready().ready}") as deployment,
    ):
        recording = call_in_thread(deployment.url, known, 3.0, "http")
    assert measure(recording.received, recording.sent, known).median > 0.5


def test_the_recipe_the_services_apart_returns_audio(
    host: str, tmp_path: Path, turns: Samples, turn_seconds: float
) -> None:
    settings = {"HTTP": f"{host}:8080", "ADMIN": f"{host}:0"}
    with recipe("The services apart", tmp_path, {"127.0.0.1": host}, settings) as running:
        url = running.wait_for(r"^ready (http://\S+:8080)/$")
        running.wait_for("(relay ready)")
        running.wait_for("(backend connected)")
        recording = call_in_thread(url, turns, 1.5 * turn_seconds, "http")
    assert_echoed(measure(recording.received, recording.sent, turns), turn_seconds)


def assert_echoed(likeness: Likeness, turn_seconds: float) -> None:
    """Assert that a whole second of the turn came back after its end. The other windows are partly silent."""
    assert likeness.best > 0.6
    assert turn_seconds < likeness.delay < turn_seconds + 1.5
