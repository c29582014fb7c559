"""A caller's audio comes back through relay, transceiver and the loopback backend."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.audio.correlation import Likeness, Samples, measure
from support.peers.aiortc_peer import call_in_thread
from support.peers.browser import TalkPage
from support.processes.services import Deployment, all_in_one, apart

SECONDS = 33.0
WINDOWS = 30
MIN_CORRELATION = 0.8


@pytest.mark.parametrize(
    ("in_one", "in_many"), [("pcm16/24000", "opus"), ("opus", "pcm16/24000")], ids=["pcm16-and-opus", "opus-and-pcm16"]
)
def test_the_audio_of_chromium_and_aiortc_comes_back(
    in_one: str, in_many: str, known: Samples, new_tab: Callable[[], TalkPage]
) -> None:
    """Chromium, and aiortc over HTTP and WebSocket, call two installations with different audio formats at once."""
    with all_in_one("--audio", in_one) as one, apart(audio=in_many) as many:
        named = {f"all in one, {in_one}": one, f"services apart, {in_many}": many}
        results = call_all(named, known, new_tab)
        assert_freed(one)
        assert_freed(many)
    for name, likeness in results.items():
        print(f"\n{name}: {likeness}", end="")
    assert min(likeness.windows for likeness in results.values()) >= WINDOWS
    assert min(likeness.median for likeness in results.values()) > MIN_CORRELATION


def call_all(
    deployments: dict[str, Deployment], known: Samples, new_tab: Callable[[], TalkPage]
) -> dict[str, Likeness]:
    """Make three calls to each deployment at the same time. Return the likeness of the audio that came back."""
    with ThreadPoolExecutor() as threads:
        calls = {
            f"{name}, aiortc over {way}": threads.submit(call_in_thread, deployment.url, known, SECONDS, way)
            for name, deployment in deployments.items()
            for way in ("http", "websocket")
        }
        tabs = {f"{name}, Chromium": new_tab() for name in deployments}
        for tab, deployment in zip(tabs.values(), deployments.values(), strict=True):
            tab.open(deployment.url)
            tab.talk()
            tab.start_recording()
        recordings = {name: tab.recording(SECONDS + 1) for name, tab in tabs.items()}
        for tab in tabs.values():
            tab.hang_up()
            tab.page.close()
        audio = {name: (recording.received, recording.sent) for name, recording in recordings.items()}
        audio |= {name: (call.result().received, call.result().sent) for name, call in calls.items()}
    return {name: measure(*recording, known) for name, recording in audio.items()}


def assert_freed(deployment: Deployment) -> None:
    """Assert that the transceiver frees all calls within a second of their end."""
    deadline = time.monotonic() + 1.0
    while deployment.calls():
        assert time.monotonic() < deadline, f"{deployment.calls()} calls were not freed within a second"
