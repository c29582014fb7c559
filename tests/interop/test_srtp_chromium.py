"""SRTP and SRTCP against Chromium."""

import json
import urllib.request
from pathlib import Path

from playwright.sync_api import Playwright

from support.audio.correlation import known_speech, measure, write_wav
from support.peers.browser import chromium
from support.processes.services import all_in_one

SECONDS = 6.0
"""Long enough for reports in both directions."""


def test_media_and_reports_are_authenticated_on_both_sides(playwright: Playwright, tmp_path: Path) -> None:
    """Media and reports pass both ways, and no packet fails its authentication or is discarded."""
    known = known_speech()
    microphone = write_wav(tmp_path / "speech.wav", known)
    with all_in_one() as deployment, chromium(playwright, microphone) as new_tab:
        tab = new_tab()
        tab.open(deployment.url)
        tab.talk()
        tab.start_recording()
        stereo = tab.recording(SECONDS)
        [transport], [inbound] = tab.statistics("transport"), tab.statistics("inbound-rtp")
        [seen_by_us] = tab.statistics("remote-inbound-rtp")
        with urllib.request.urlopen(f"{deployment.url}/v1/realtime/calls/{tab.call_id}/stats", timeout=5) as answer:
            statistics = json.load(answer)["statistics"]
        tab.hang_up()
    print(f"\nChromium took {transport['srtpCipher']}, TLS version {transport['tlsVersion']}", end="")
    assert measure(stereo.received, stereo.sent, known).median > 0.5
    assert statistics["dropped"]["srtp_failed"] == 0
    assert statistics["received_packets"] > SECONDS * 45
    assert statistics["round_trip_ms"] is not None
    assert inbound["packetsReceived"] > SECONDS * 45
    assert inbound["packetsLost"] == inbound["packetsDiscarded"] == 0
    assert seen_by_us["packetsLost"] == 0
