"""A call from Chromium keeps its audio on bad networks. Gaps and delays are those of the recording."""

import time
from collections.abc import Iterator
from math import inf

import numpy as np
import pytest
from playwright.sync_api import Playwright

from antiphon_transceiver.audio.adaptation import MIN_BURST_RATIO
from support.audio.listening import WINDOW_SECONDS
from support.net.impairment import PERFECT, Bursts, Impairment
from support.net.internet import CallRecording, Internet, internet
from support.peers.browser import TalkPage

FAR_AWAY = Impairment(delay=0.02)
SECONDS = 16.0
TROUBLE_AFTER = 6.0

REPORTED_WITHIN = 30.0
"""Seconds within which one of Chromium's reports, sent every 5 s, shows at least the average loss."""

ADDED_DELAY = 0.08
"""Largest delay in seconds that Antiphon adds at the 95th percentile, without that of Chromium's jitter buffer."""

RECOVERED_AFTER = 1.0
"""Seconds after a burst within which the delay is normal again."""

LATE = 0.01
"""Share of packets that may arrive after their playout time on a shared machine."""


@pytest.fixture(scope="module")
def impaired(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    with internet(playwright, tmp_path_factory.mktemp("caller")) as impaired:
        yield impaired


@pytest.fixture(autouse=True)
def _perfect_afterwards(impaired: Internet) -> Iterator[None]:
    yield
    impaired.impair(PERFECT)


@pytest.fixture(scope="module")
def good(impaired: Internet) -> CallRecording:
    """The recording of a call over a good network."""
    impaired.impair(FAR_AWAY)
    recording = impaired.record(SECONDS)
    print(f"\ngood network: {recording}", end="")
    assert recording.analysis.found > 0.8
    assert recording.analysis.longest_gap <= 0.06
    assert_kept(recording)
    return recording


def test_loss_adds_little_delay(impaired: Internet, good: CallRecording) -> None:
    """A lost packet delays the audio only while the jitter buffer waits for it."""
    impaired.impair(FAR_AWAY)
    lossy = Impairment(delay=0.02, loss=0.05)
    recording = impaired.record(2 * SECONDS, lambda tab: impaired.impair(lossy, after=TROUBLE_AFTER))
    before, since = recording.analysis.times < TROUBLE_AFTER - 2.0, recording.analysis.times > TROUBLE_AFTER
    added = float(np.percentile(recording.ours[since], 95) - np.median(recording.ours[before]))
    print(f"\n5 % loss: {recording}; p95 of the added delay {added * 1000:.0f} ms", end="")
    assert recording.analysis.found > 0.8
    assert recording.analysis.longest_gap <= 0.1
    assert added <= ADDED_DELAY
    assert_kept(recording)


def test_burst_losses_are_recovered_from_redundant_blocks(impaired: Internet) -> None:
    """Chromium plays most of the lost audio from the redundant blocks of later packets (RFC 2198)."""
    impaired.impair(Impairment(delay=0.02, bursts=Bursts.of_mean(0.2, length=3.0)))
    tab, deadline = impaired.call(), time.monotonic() + REPORTED_WITHIN
    while tab.own_statistics()["sent_repetitions"] < 2:
        tab.page.wait_for_timeout(500)
        assert time.monotonic() < deadline, "two redundant blocks per packet were never sent"
    [before] = tab.statistics("inbound-rtp")
    tab.page.wait_for_timeout(1000 * SECONDS)
    [after], server = tab.statistics("inbound-rtp"), tab.own_statistics()
    tab.hang_up()
    tab.page.close()
    names = ("packetsLost", "packetsReceived", "concealedSamples", "totalSamplesReceived")
    lost, received, concealed, played = (after[name] - before[name] for name in names)
    lost_share, concealed_share = lost / (lost + received), concealed / played
    in_bursts = server["sent_feedback"]["in_runs_percent"]
    print(f"\n{lost_share:.1%} lost, {in_bursts} % of them in bursts, {concealed_share:.1%} concealed", end="")
    assert in_bursts > 100 * MIN_BURST_RATIO
    assert concealed_share < lost_share / 2


def test_the_delay_after_an_outage_stays_within_the_target_delay(impaired: Internet, good: CallRecording) -> None:
    """The first packet after the outage waits for missing ones for the target delay. Later packets keep that delay."""
    impaired.impair(FAR_AWAY)
    recording = impaired.record(SECONDS, lambda tab: impaired.interrupt(0.3, after=TROUBLE_AFTER, otherwise=FAR_AWAY))
    print(f"\noutage of 300 ms: {recording}", end="")
    assert recording.analysis.found > 0.8
    burst, length = max(recording.analysis.gaps, key=lambda gap: gap[1])
    assert length <= 0.5
    before = recording.analysis.times < burst - WINDOW_SECONDS
    afterwards = recording.analysis.times > burst + length + RECOVERED_AFTER
    risen = float(np.max(recording.ours[afterwards]) - np.median(recording.ours[before]))
    print(f"; delay later than 1 s after it: {risen * 1000:+.0f} ms at most", end="")
    assert risen <= good.server["uplink_target_ms"] / 1000
    assert recording.analysis.times[-1] > SECONDS - 3.0
    assert_kept(recording)


def test_jitter_causes_no_gaps(impaired: Internet, good: CallRecording) -> None:
    """Chromium stretches the audio, so that its waveform is not always recognised."""
    impaired.impair(Impairment(delay=0.02, jitter=0.08))
    recording = impaired.record(SECONDS)
    print(f"\n80 ms jitter: {recording}", end="")
    assert recording.analysis.found > 0.6
    assert recording.analysis.longest_gap <= 0.1
    assert_kept(recording)


def test_audio_resumes_after_a_nat_rebinding(impaired: Internet, good: CallRecording) -> None:
    """Chromium checks every 2.5 s. Until then the server sends to the old port."""
    impaired.impair(FAR_AWAY)
    recording = impaired.record(SECONDS, lambda tab: impaired.rebind(after=TROUBLE_AFTER))
    print(f"\nNAT rebinding: {recording}", end="")
    assert recording.analysis.found > 0.6
    assert recording.analysis.longest_gap <= 3.0
    assert recording.analysis.times[-1] > SECONDS - 3.0
    assert_kept(recording)


def test_an_ice_restart_causes_no_gap(impaired: Internet, good: CallRecording) -> None:
    def restart(tab: TalkPage) -> None:
        tab.page.wait_for_timeout(1000 * TROUBLE_AFTER)
        tab.page.evaluate("() => window.antiphon.restartIce()")

    impaired.impair(FAR_AWAY)
    recording = impaired.record(SECONDS, restart)
    print(f"\nICE restart: {recording}", end="")
    assert recording.analysis.found > 0.8
    assert recording.analysis.longest_gap <= 0.1
    assert recording.analysis.times[-1] > SECONDS - 3.0
    assert_kept(recording)


def test_delay_stays_constant_over_minutes(impaired: Internet, good: CallRecording, minutes: int) -> None:
    """The path by the second ingress, which Chromium soon stops checking, is kept."""
    impaired.impair(Impairment(delay=0.02, loss=0.01, jitter=0.01))
    shortest = inf
    for minute, recording in enumerate(impaired.pieces(60.0, minutes), 1):
        print(f"\nminute {minute} of {minutes}: {recording}", end="")
        shortest = min(shortest, float(np.percentile(recording.ours, 5)))
        assert recording.analysis.found > 0.8
        assert recording.analysis.longest_gap <= 0.1
        assert np.percentile(recording.ours, 95) - shortest <= ADDED_DELAY
        assert recording.server["paths"] == 2
        assert_kept(recording)


def assert_kept(recording: CallRecording) -> None:
    """Assert that no packet that arrived in time was discarded, and hardly any arrived late."""
    assert recording.discarded == 0
    assert recording.late <= LATE
