"""Calls from Pion, built from Debian's Go packages."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from antiphon.client.speech import RecordedSpeech
from support.processes.answering_backend import repeating_backend
from support.processes.services import all_in_one

SOURCE = Path(__file__).parents[1] / "support" / "peers" / "pion_peer.go"
DEBIAN_GO = Path("/usr/share/gocode")
PACKAGES = "golang-go golang-github-pion-webrtc.v3-dev"
SECONDS = 4.0
LENGTHS = [30, 1200, 65_535, 100, 65_535]
"""Lengths of events in bytes. Pion's SDP has no max-message-size, and it reads one byte less than 64 KiB."""


@pytest.fixture(scope="module")
def pion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the caller."""
    go = shutil.which("go")
    has_pion = (DEBIAN_GO / "src/github.com/pion/webrtc").is_dir()
    assert go is not None, f"Go is missing: apt-get install {PACKAGES}"
    assert has_pion, f"Pion is missing: apt-get install {PACKAGES}"
    folder = tmp_path_factory.mktemp("pion")
    source = folder / "src" / "pion_peer"
    source.mkdir(parents=True)
    shutil.copy(SOURCE, source)
    (source / "go.mod").write_text("module pion_peer\n")  # lets Go find /v3 imports where Debian has them, without /v3
    environ = {"GO111MODULE": "off", "GOPATH": f"{folder}:{DEBIAN_GO}", "GOCACHE": str(folder / "cache")}
    program = folder / "pion_peer"
    subprocess.run([go, "build", "-o", str(program), "pion_peer"], check=True, env=os.environ | environ, timeout=300)
    return program


def test_a_call_from_pion_receives_its_audio_and_events_back(pion: Path, tmp_path: Path) -> None:
    packets = tmp_path / "packets"
    packets.write_bytes(b"".join(len(p).to_bytes(2, "big") + p for p in RecordedSpeech.shipped().packets))
    with repeating_backend() as url, all_in_one("--audio", "opus", backend=f"test={url}") as deployment:
        command = [str(pion), deployment.url, str(packets), str(SECONDS), *map(str, LENGTHS)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    print("Pion:", result)
    assert result["dtls"] == "connected"
    assert result["sent"] > 150
    assert result["received"] >= 0.97 * result["sent"]
    assert result["sizes"] == LENGTHS, result["exchange"]
