"""DTLS against Chromium with an RSA certificate."""

from pathlib import Path

from playwright.sync_api import Playwright

from support.audio.correlation import known_speech, write_wav
from support.peers.browser import chromium
from support.processes.services import all_in_one

USE_RSA = """
async () => {
  const Native = RTCPeerConnection;
  const certificate = await Native.generateCertificate({
    name: "RSASSA-PKCS1-v1_5", hash: "SHA-256", modulusLength: 2048, publicExponent: new Uint8Array([1, 0, 1]),
  });
  window.RTCPeerConnection = class extends Native {
    constructor(configuration) { super({ ...configuration, certificates: [certificate] }); }
  };
}
"""


def test_a_call_with_an_rsa_certificate_connects(playwright: Playwright, tmp_path: Path) -> None:
    microphone = write_wav(tmp_path / "speech.wav", known_speech())
    with all_in_one() as deployment, chromium(playwright, microphone) as new_tab:
        tab = new_tab()
        tab.open(deployment.url)
        tab.page.evaluate(USE_RSA)
        tab.talk()
        tab.page.wait_for_timeout(500)
        [transport] = tab.statistics("transport")
        tab.hang_up()
    print(f"\nChromium took {transport['dtlsCipher']}", end="")
    assert "_RSA_" in transport["dtlsCipher"]
