"""Fixtures of all end-to-end tests: the known speech, Chromium with it as microphone, and logs of failed services."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Playwright

from support.audio.correlation import RATE, Samples, known_speech, write_wav
from support.peers.browser import TalkPage, chromium
from support.processes.services import running

PAUSE_SECONDS = 1.8
"""Seconds by which the pause after a turn is longer than the turn."""


@pytest.fixture(scope="session")
def known() -> Samples:
    """The speech that callers send, at 48 kHz."""
    return known_speech()


@pytest.fixture(scope="session")
def turn_seconds() -> float:
    return 2.0


@pytest.fixture(scope="session")
def turns(known: Samples, turn_seconds: float) -> Samples:
    """A turn of speech, and a pause in which its echo can be played."""
    pause = np.zeros(round((turn_seconds + PAUSE_SECONDS) * RATE), np.float32)
    return np.concatenate([known[: round(turn_seconds * RATE)], pause])


@pytest.fixture(scope="session")
def new_tab(
    playwright: Playwright, known: Samples, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], TalkPage]]:
    """Open tabs in one Chromium whose microphone plays the known speech in a loop."""
    microphone: Path = write_wav(tmp_path_factory.mktemp("microphone") / "speech.wav", known)
    with chromium(playwright, microphone) as new_tab:
        yield new_tab


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.extend((f"log of {service.name}", service.log) for service in running)
    return report
