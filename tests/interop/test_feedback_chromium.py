"""Transport-wide feedback against Chromium, whose audio bitrate follows our feedback."""

import json
import urllib.request
from pathlib import Path

from playwright.sync_api import Playwright

from support.audio.correlation import known_speech, write_wav
from support.peers.browser import chromium
from support.processes.services import all_in_one

SECONDS = 8.0
"""Long enough for Chromium's estimate to settle."""

OPUS_BITRATE = 32_000
"""Largest bitrate of Chromium's Opus, which it uses without losses."""


def test_chromium_accepts_our_feedback_and_sends_its_own(playwright: Playwright, tmp_path: Path) -> None:
    microphone = write_wav(tmp_path / "speech.wav", known_speech())
    with all_in_one() as deployment, chromium(playwright, microphone) as new_tab:
        tab = new_tab()
        tab.open(deployment.url)
        tab.talk()
        tab.page.wait_for_timeout(1000 * SECONDS)
        [outbound] = tab.statistics("outbound-rtp")
        [pair] = [pair for pair in tab.statistics("candidate-pair") if pair.get("nominated")]
        with urllib.request.urlopen(f"{deployment.url}/v1/realtime/calls/{tab.call_id}/stats", timeout=5) as answer:
            statistics = json.load(answer)["statistics"]
        tab.hang_up()
    print(f"\nChromium may send {pair['availableOutgoingBitrate']:.0f} bit/s, and aims at", end=" ")
    print(f"{outbound['targetBitrate']:.0f}; its feedback {statistics['sent_feedback']}", end="")
    assert pair["availableOutgoingBitrate"] > OPUS_BITRATE
    assert outbound["targetBitrate"] >= 0.9 * OPUS_BITRATE
    reported = statistics["sent_feedback"]
    assert reported["received"] > 0.8 * statistics["sent_packets"]
    assert reported["lost"] == 0
    assert statistics["received_level_dbov"] is not None
