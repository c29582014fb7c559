"""What all end-to-end tests share: the known sound, Chromium with it as microphone, and logs of what failed."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Playwright

from support.audio.correlation import RATE, Samples, known_speech, write_wav
from support.peers.browser import TalkPage, chromium
from support.processes.services import running

PAUSE_SECONDS = 1.8
"""How much longer than a turn the caller is silent after it."""


@pytest.fixture(scope="session")
def known() -> Samples:
    """The speech that callers say, at 48 kHz."""
    return known_speech()


@pytest.fixture(scope="session")
def turn_seconds() -> float:
    return 2.0


@pytest.fixture(scope="session")
def turns(known: Samples, turn_seconds: float) -> Samples:
    """A turn of the speech, and a pause in which it can be said back."""
    pause = np.zeros(round((turn_seconds + PAUSE_SECONDS) * RATE), np.float32)
    return np.concatenate([known[: round(turn_seconds * RATE)], pause])


@pytest.fixture(scope="session")
def new_tab(
    playwright: Playwright, known: Samples, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], TalkPage]]:
    """Open tabs in one Chromium whose microphone says the known speech over and over."""
    microphone: Path = write_wav(tmp_path_factory.mktemp("microphone") / "speech.wav", known)
    with chromium(playwright, microphone) as new_tab:
        yield new_tab


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.extend((f"log of {service.name}", service.log) for service in running)
    return report
