"""The main job on real input: what a caller says comes back through relay, transceiver and the loopback backend."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.audio.correlation import Likeness, Samples, judge
from support.peers.aiortc_peer import call_in_thread
from support.peers.browser import TalkPage
from support.processes.services import Deployment, all_in_one, apart

SECONDS = 33.0
WINDOWS = 30
LIKENESS = 0.8


@pytest.mark.parametrize(
    ("in_one", "in_many"), [("pcm16/24000", "opus"), ("opus", "pcm16/24000")], ids=["pcm16-and-opus", "opus-and-pcm16"]
)
def test_what_callers_say_comes_back(
    in_one: str, in_many: str, known: Samples, new_tab: Callable[[], TalkPage]
) -> None:
    """Chromium, and aiortc over HTTP and WebSocket, all at once, at two installations of different make."""
    with all_in_one("--audio", in_one) as one, apart(audio=in_many) as many:
        named = {f"all in one, {in_one}": one, f"services apart, {in_many}": many}
        heard = call_all(named, known, new_tab)
        assert_freed(one)
        assert_freed(many)
    for who, likeness in heard.items():
        print(f"\n{who}: {likeness}", end="")
    assert min(likeness.windows for likeness in heard.values()) >= WINDOWS
    assert min(likeness.median for likeness in heard.values()) > LIKENESS


def call_all(
    deployments: dict[str, Deployment], known: Samples, new_tab: Callable[[], TalkPage]
) -> dict[str, Likeness]:
    """Make three calls to each deployment at the same time; return how like the speech what they heard was."""
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
        recordings = {who: tab.recording(SECONDS + 1) for who, tab in tabs.items()}
        for tab in tabs.values():
            tab.hang_up()
            tab.page.close()
        heard = {who: (recording.heard, recording.said) for who, recording in recordings.items()}
        heard |= {who: (call.result().heard, call.result().said) for who, call in calls.items()}
    return {who: judge(*recording, known) for who, recording in heard.items()}


def assert_freed(deployment: Deployment) -> None:
    """Everybody has hung up; a second later at most the transceiver holds nothing of them."""
    deadline = time.monotonic() + 1.0
    while deployment.calls():
        assert time.monotonic() < deadline, f"{deployment.calls()} calls were not freed within a second"
