"""What all end-to-end tests share: the known sound, Chromium with it as microphone, and logs of what failed."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Playwright, sync_playwright
from support.browser import TalkPage, chromium
from support.correlation import Samples, known_speech, write_wav
from support.processes import running


@pytest.fixture(scope="session")
def known() -> Samples:
    """The speech that callers say, at 48 kHz."""
    return known_speech()


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


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
