"""A call from Chromium keeps its audio on bad networks. Gaps and delays are those of the recording."""

import time
from collections.abc import Iterator
from math import inf

import numpy as np
import pytest
from playwright.sync_api import Playwright

from antiphon_transceiver.audio.adaptation import RUN_SHARE
from support.audio.listening import WINDOW_SECONDS
from support.net.impairment import PERFECT, Bursts, Impairment
from support.net.internet import Internet, Recording, internet
from support.peers.browser import TalkPage

FAR_AWAY = Impairment(delay=0.02)
SECONDS = 16.0
TROUBLE_AFTER = 6.0

REPORTED_WITHIN = 30.0
"""Seconds in which one of Chromium's reports, which come every five, tells of as much as is lost on average."""

ADDED_DELAY = 0.08
"""Seconds that we may add at the 95th percentile, beside what Chromium's jitter buffer adds."""

RECOVERED_AFTER = 1.0
"""Seconds after a burst in which delay is what it shall be."""

LATE = 0.01
"""Share of packets that may come after their playout time, on a machine that has other things to do."""


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
    assert recording.hearing.longest_gap <= 0.06
    assert_kept(recording)
    return recording


def test_loss(between: Internet, good: Recording) -> None:
    """What is lost delays nothing but for the time that it was waited for."""
    between.impair(FAR_AWAY)
    lossy = Impairment(delay=0.02, loss=0.05)
    recording = between.record(2 * SECONDS, lambda tab: between.impair(lossy, after=TROUBLE_AFTER))
    before, since = recording.hearing.times < TROUBLE_AFTER - 2.0, recording.hearing.times > TROUBLE_AFTER
    added = float(np.percentile(recording.ours[since], 95) - np.median(recording.ours[before]))
    print(f"\n5 % loss: {recording}; p95 of what we add {added * 1000:.0f} ms", end="")
    assert recording.hearing.found > 0.8
    assert recording.hearing.longest_gap <= 0.1
    assert added <= ADDED_DELAY
    assert_kept(recording)


def test_losses_in_runs(between: Internet) -> None:
    """Chromium plays most of what was lost from what later packets repeat."""
    between.impair(Impairment(delay=0.02, bursts=Bursts.of_mean(0.2, length=3.0)))
    tab, deadline = between.call(), time.monotonic() + REPORTED_WITHIN
    while tab.own_statistics()["sent_repetitions"] < 2:
        tab.page.wait_for_timeout(500)
        assert time.monotonic() < deadline, "two repetitions never began"
    [before] = tab.statistics("inbound-rtp")
    tab.page.wait_for_timeout(1000 * SECONDS)
    [after], server = tab.statistics("inbound-rtp"), tab.own_statistics()
    tab.hang_up()
    tab.page.close()
    names = ("packetsLost", "packetsReceived", "concealedSamples", "totalSamplesReceived")
    lost, received, concealed, played = (after[name] - before[name] for name in names)
    lost_share, concealed_share = lost / (lost + received), concealed / played
    in_runs = server["sent_feedback"]["in_runs_percent"]
    print(f"\n{lost_share:.1%} lost, {in_runs} % of them in runs, {concealed_share:.1%} concealed", end="")
    assert in_runs > 100 * RUN_SHARE
    assert concealed_share < lost_share / 2


def test_a_burst(between: Internet, good: Recording) -> None:
    """The first packet after it waits for those before it, as long as the jitter buffer's target without trouble, and
    what follows keeps its distance; no more than that stays."""
    between.impair(FAR_AWAY)
    recording = between.record(SECONDS, lambda tab: between.interrupt(0.3, after=TROUBLE_AFTER, otherwise=FAR_AWAY))
    print(f"\na burst of 300 ms: {recording}", end="")
    assert recording.hearing.found > 0.8
    burst, length = max(recording.hearing.gaps, key=lambda gap: gap[1])
    assert length <= 0.5
    before = recording.hearing.times < burst - WINDOW_SECONDS
    afterwards = recording.hearing.times > burst + length + RECOVERED_AFTER
    risen = float(np.max(recording.ours[afterwards]) - np.median(recording.ours[before]))
    print(f"; from 1 s after it on, {risen * 1000:+.0f} ms at most", end="")
    assert risen <= good.server["uplink_target_ms"] / 1000
    assert recording.hearing.times[-1] > SECONDS - 3.0
    assert_kept(recording)


def test_jitter(between: Internet, good: Recording) -> None:
    """Chromium stretches what it plays, which is heard but not always recognised by its waveform."""
    between.impair(Impairment(delay=0.02, jitter=0.08))
    recording = between.record(SECONDS)
    print(f"\n80 ms jitter: {recording}", end="")
    assert recording.hearing.found > 0.6
    assert recording.hearing.longest_gap <= 0.1
    assert_kept(recording)


def test_a_nat_rebinding(between: Internet, good: Recording) -> None:
    """Chromium checks every 2.5 s, and what the server sends until then goes to the old port."""
    between.impair(FAR_AWAY)
    recording = between.record(SECONDS, lambda tab: between.rebind(after=TROUBLE_AFTER))
    print(f"\na NAT rebinding: {recording}", end="")
    assert recording.hearing.found > 0.6
    assert recording.hearing.longest_gap <= 3.0
    assert recording.hearing.times[-1] > SECONDS - 3.0
    assert_kept(recording)


def test_an_ice_restart(between: Internet, good: Recording) -> None:
    def restart(tab: TalkPage) -> None:
        tab.page.wait_for_timeout(1000 * TROUBLE_AFTER)
        tab.page.evaluate("() => window.antiphon.restartIce()")

    between.impair(FAR_AWAY)
    recording = between.record(SECONDS, restart)
    print(f"\nan ICE restart: {recording}", end="")
    assert recording.hearing.found > 0.8
    assert recording.hearing.longest_gap <= 0.1
    assert recording.hearing.times[-1] > SECONDS - 3.0
    assert_kept(recording)


def test_minutes_of_playing(between: Internet, good: Recording, minutes: int) -> None:
    """Nothing adds up, and the path by the second ingress, which Chromium soon stops checking, stays there."""
    between.impair(Impairment(delay=0.02, loss=0.01, jitter=0.01))
    shortest = inf
    for minute, recording in enumerate(between.pieces(60.0, minutes), 1):
        print(f"\nminute {minute} of {minutes}: {recording}", end="")
        shortest = min(shortest, float(np.percentile(recording.ours, 5)))
        assert recording.hearing.found > 0.8
        assert recording.hearing.longest_gap <= 0.1
        assert np.percentile(recording.ours, 95) - shortest <= ADDED_DELAY
        assert recording.server["paths"] == 2
        assert_kept(recording)


def assert_kept(recording: Recording) -> None:
    """Nothing that came in time was discarded, and next to nothing came late."""
    assert recording.discarded == 0
    assert recording.late <= LATE
