"""A call from Chromium keeps its audio on bad networks. Gaps and delays are those of the recording."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Playwright

from support.browser import TalkPage
from support.impairment import PERFECT, Impairment
from support.internet import Internet, Recording, internet

FAR_AWAY = Impairment(delay=0.02)
SECONDS = 16.0
TROUBLE_AFTER = 6.0

ADDED_DELAY = 0.08
"""Seconds that we may add at the 95th percentile, beside what Chromium's jitter buffer adds."""


@pytest.fixture(scope="module")
def between(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    with internet(playwright, tmp_path_factory.mktemp("caller")) as between:
        yield between


@pytest.fixture(autouse=True)
def _perfect_afterwards(between: Internet) -> Iterator[None]:
    yield
    between.impair(PERFECT)


@pytest.fixture(scope="module")
def good(between: Internet) -> Recording:
    """The same call over a good network."""
    between.impair(FAR_AWAY)
    recording = between.record(SECONDS)
    print(f"\ngood network: {recording}", end="")
    assert recording.hearing.found > 0.8
    return recording


def test_loss(between: Internet, good: Recording) -> None:
    """What is lost delays nothing but for the time that it was waited for."""
    between.impair(Impairment(delay=0.02, loss=0.05))
    hearing, buffer = recording = between.record(SECONDS)
    added = hearing.delay_p95 - buffer - (good.hearing.delay - good.buffer)
    print(f"\n5 % loss: {recording}; p95 of what we add {added * 1000:.0f} ms", end="")
    assert hearing.found > 0.7
    assert hearing.longest_gap <= 0.2
    assert added <= ADDED_DELAY


def test_a_burst(between: Internet, good: Recording) -> None:
    between.impair(FAR_AWAY)
    recording = between.record(SECONDS, lambda tab: between.interrupt(0.3, after=TROUBLE_AFTER, otherwise=FAR_AWAY))
    print(f"\na burst of 300 ms: {recording}", end="")
    assert recording.hearing.found > 0.8
    assert recording.hearing.longest_gap <= 0.6
    assert recording.hearing.times[-1] > SECONDS - 3.0


def test_jitter(between: Internet, good: Recording) -> None:
    """Chromium stretches what it plays, which is heard but not recognised by its waveform."""
    between.impair(Impairment(delay=0.02, jitter=0.08))
    recording = between.record(SECONDS)
    print(f"\n80 ms jitter: {recording}", end="")
    assert recording.hearing.found > 0.4
    assert recording.hearing.longest_gap <= 0.2


def test_a_nat_rebinding(between: Internet, good: Recording) -> None:
    """Chromium checks every 2.5 s, and what the server sends until then goes to the old port."""
    between.impair(FAR_AWAY)
    recording = between.record(SECONDS, lambda tab: between.rebind(after=TROUBLE_AFTER))
    print(f"\na NAT rebinding: {recording}", end="")
    assert recording.hearing.found > 0.6
    assert recording.hearing.longest_gap <= 3.5
    assert recording.hearing.times[-1] > SECONDS - 3.0


def test_an_ice_restart(between: Internet, good: Recording) -> None:
    def restart(tab: TalkPage) -> None:
        tab.page.wait_for_timeout(1000 * TROUBLE_AFTER)
        tab.page.evaluate("() => window.antiphon.restartIce()")

    between.impair(FAR_AWAY)
    recording = between.record(SECONDS, restart)
    print(f"\nan ICE restart: {recording}", end="")
    assert recording.hearing.found > 0.8
    assert recording.hearing.longest_gap <= 0.2
    assert recording.hearing.times[-1] > SECONDS - 3.0
