"""Calls from GStreamer's webrtcbin, whose certificate is RSA-2048."""

import json
import shutil
import socket
import subprocess
from pathlib import Path

from antiphon_common.shell.interfaces import default_address
from support.processes.answering_backend import repeating_backend
from support.processes.services import all_in_one

PEER = Path(__file__).parents[1] / "support" / "peers" / "gstreamer_peer.py"
DEBIAN_PYTHON = "/usr/bin/python3"
PACKAGES = (
    "gir1.2-gst-plugins-bad-1.0 gstreamer1.0-nice gstreamer1.0-plugins-bad gstreamer1.0-plugins-good "
    "gstreamer1.0-tools python3-gst-1.0"
)
SECONDS = 4.0
LENGTHS = [30, 1200, 65_535, 100, 65_535]
"""Lengths of events in bytes. webrtcbin's SDP has no max-message-size."""


def test_a_call_from_webrtcbin_receives_its_audio_and_events_back() -> None:
    inspect = shutil.which("gst-inspect-1.0")
    missing = inspect is None or subprocess.run([inspect, "webrtcbin"], capture_output=True, check=False).returncode
    assert not missing, f"webrtcbin is missing: apt-get install {PACKAGES}"
    host = default_address(socket.AF_INET)
    assert host is not None, "webrtcbin leaves loopback out, and this host has no other address"
    settings = ("--audio", "opus", "--media", f"{host}:0")
    with repeating_backend() as url, all_in_one(*settings, backend=f"test={url}") as deployment:
        command = [DEBIAN_PYTHON, str(PEER), deployment.url, str(SECONDS), *map(str, LENGTHS)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    print("webrtcbin:", result)
    assert (result["error"], result["state"]) == ("", "connected")
    assert result["received"] > 40 * SECONDS
    assert result["sizes"] == LENGTHS
