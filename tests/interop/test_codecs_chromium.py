"""Codecs against Chromium: Opus with RED, and G.711 when a caller offers no Opus."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Playwright

from support.audio.correlation import known_speech, measure, write_wav
from support.peers.browser import chromium
from support.processes.services import all_in_one

SECONDS = 6.0

PREFER = """
(() => {
  const prefer = %s;
  const describe = RTCPeerConnection.prototype.setLocalDescription;
  RTCPeerConnection.prototype.setLocalDescription = function (...given) {
    const { codecs } = RTCRtpReceiver.getCapabilities("audio");
    const chosen = prefer.flatMap((type) => codecs.filter(({ mimeType }) => mimeType.toLowerCase() === type));
    this.getTransceivers().forEach((transceiver) => transceiver.setCodecPreferences(chosen));
    return describe.apply(this, given);
  };
})()
"""


@pytest.mark.parametrize(
    ("preferred", "spoken", "kilobits"),
    [
        ([], "audio/opus", range(50, 80)),
        (["audio/opus", "audio/red"], "audio/opus", range(20, 45)),
        (["audio/pcmu"], "audio/pcmu", range(60, 70)),
        (["audio/g722", "audio/pcma"], "audio/pcma", range(60, 70)),
    ],
    ids=["page", "opus", "pcmu", "pcma"],
)
def test_the_codec_that_chromium_prefers_is_used(
    playwright: Playwright, tmp_path: Path, preferred: list[str], spoken: str, kilobits: range
) -> None:
    """Both sides send redundant blocks if RED is the first choice, as on the talk page. The bitrate shows it."""
    known = known_speech()
    microphone = write_wav(tmp_path / "speech.wav", known)
    with all_in_one() as deployment, chromium(playwright, microphone) as new_tab:
        tab = new_tab()
        if preferred:
            tab.page.add_init_script(PREFER % json.dumps(preferred))
        tab.open(deployment.url)
        tab.talk()
        tab.start_recording()
        stereo = tab.recording(SECONDS)
        [inbound] = tab.statistics("inbound-rtp")
        [outbound] = tab.statistics("outbound-rtp")
        codecs = {report["id"]: report["mimeType"].lower() for report in tab.statistics("codec")}
        with urllib.request.urlopen(f"{deployment.url}/v1/realtime/calls/{tab.call_id}/stats", timeout=5) as answer:
            statistics: dict[str, Any] = json.load(answer)["statistics"]
        tab.hang_up()
    likeness = measure(stereo.received, stereo.sent, known)
    bitrate = outbound["bytesSent"] / outbound["packetsSent"] * 8 * 50 / 1000
    print(f"\n{spoken}, {bitrate:.0f} kbit/s: {likeness}", end="")
    assert codecs[outbound["codecId"]] == codecs[inbound["codecId"]] == spoken
    assert round(bitrate) in kilobits
    assert likeness.median > 0.5
    assert statistics["uplink"]["received"] > SECONDS * 45
