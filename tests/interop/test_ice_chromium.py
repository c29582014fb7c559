"""Trickle ICE and ICE restarts of Chromium, over HTTP and over the WebSocket. The call continues."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Playwright

from support.audio.correlation import known_speech, write_wav
from support.peers.browser import TalkPage, chromium
from support.processes.services import Deployment, all_in_one

RESTARTS = 2
DEADLINE_SECONDS = 15.0

BY_WEBSOCKET = """
async () => {
  const socket = new WebSocket(`ws://${location.host}/v1/signaling`);
  await new Promise((resolve) => socket.addEventListener("open", resolve));
  const answers = [];
  const refusals = [];
  let wake = () => {};
  socket.addEventListener("message", ({ data }) => {
    const message = JSON.parse(data);
    (message.type === "answer" ? answers : refusals).push(message);
    wake();
  });
  const ask = async (message) => {
    const answered = new Promise((resolve) => { wake = resolve; });
    socket.send(JSON.stringify(message));
    await answered;
    if (refusals.length) throw new Error(JSON.stringify(refusals));
    return answers.shift();
  };
  return {
    start: async (sdp) => (await ask({ type: "offer", sdp })).sdp,
    restart: async (sdp) => (await ask({ type: "restart", sdp })).sdp,
    trickle: async (candidate) => { socket.send(JSON.stringify({ type: "trickle", candidate })); return 0; },
  };
}
"""
BY_HTTP = """
async () => {
  let location, etag, answer;
  const line = (sdp, name) => sdp.match(new RegExp(`^a=${name}:.*$`, "m"))[0].trim();
  const patch = async (sdp, match, more = "") => {
    const body = ["m=audio 9 UDP/TLS/RTP/SAVPF 111", "a=mid:0", line(sdp, "ice-ufrag"), line(sdp, "ice-pwd"), more];
    const headers = { "Content-Type": "application/trickle-ice-sdpfrag", "If-Match": match };
    return fetch(location, { method: "PATCH", headers, body: body.join("\\r\\n") });
  };
  return {
    start: async (sdp) => {
      const headers = { "Content-Type": "application/sdp" };
      const response = await fetch("/v1/realtime/calls", { method: "POST", headers, body: sdp });
      location = response.headers.get("Location");
      etag = response.headers.get("ETag");
      answer = await response.text();
      return answer;
    },
    restart: async (sdp) => {
      const response = await patch(sdp, "*");
      etag = response.headers.get("ETag");
      const fragment = await response.text();
      for (const name of ["ice-ufrag", "ice-pwd"])
        answer = answer.replaceAll(new RegExp(`^a=${name}:.*$`, "gm"), line(fragment, name));
      return answer;
    },
    trickle: async (candidate, sdp) => (await patch(sdp, etag, `a=${candidate.candidate}\\r\\n`)).status,
  };
}
"""
CALL = """
async (way) => {
  const signal = await eval(way)();
  const connection = new RTCPeerConnection();
  const trickled = [], states = [], waiting = [];
  let asking = true;
  const trickle = async () => {
    for (const candidate of waiting.splice(0))
      trickled.push([candidate.candidate, await signal.trickle(candidate, connection.localDescription.sdp)]);
  };
  const negotiate = async (ask) => {
    asking = true;
    await connection.setLocalDescription();
    const sdp = await ask(connection.localDescription.sdp);
    asking = false;
    await trickle();
    await connection.setRemoteDescription({ type: "answer", sdp });
  };
  connection.addEventListener("icecandidate", ({ candidate }) => {
    if (candidate?.candidate) waiting.push(candidate);
    if (!asking) trickle();
  });
  connection.addEventListener("connectionstatechange", () => states.push(connection.connectionState));
  const [track] = (await navigator.mediaDevices.getUserMedia({ audio: true })).getAudioTracks();
  connection.addTrack(track);
  await negotiate(signal.start);
  const restart = async () => {
    connection.restartIce();
    await negotiate(signal.restart);
  };
  window.call = { connection, trickled, states, restart };
}
"""
FIGURES = """
async () => {
  const { connection, trickled, states } = window.call;
  const report = [...(await connection.getStats()).values()];
  const transport = report.find(({ type }) => type === "transport") ?? {};
  const pair = report.find(({ id }) => id === transport.selectedCandidatePairId) ?? {};
  const heard = report.find(({ type }) => type === "inbound-rtp")?.packetsReceived ?? 0;
  return { trickled, states, heard, pair: pair.id ?? "", answered: pair.responsesReceived ?? 0,
           ufrag: transport.iceLocalUsernameFragment ?? "", certificate: transport.localCertificateId,
           dtls: transport.dtlsState };
}
"""


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with all_in_one() as deployment:
        yield deployment


@pytest.fixture(scope="module")
def new_tab(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], TalkPage]]:
    microphone = write_wav(tmp_path_factory.mktemp("microphone") / "speech.wav", known_speech())
    with chromium(playwright, microphone) as new_tab:
        yield new_tab


@pytest.mark.parametrize(("way", "accepted"), [(BY_HTTP, 204), (BY_WEBSOCKET, 0)], ids=["HTTP", "WebSocket"])
def test_a_call_continues_with_trickled_candidates_and_restarts(
    deployment: Deployment, new_tab: Callable[[], TalkPage], way: str, accepted: int
) -> None:
    tab = new_tab()
    tab.open(deployment.url)
    tab.page.evaluate(CALL, way)
    first = figures = wait_for_audio(tab, {"heard": 0, "ufrag": "", "pair": ""})
    for _ in range(RESTARTS):
        tab.page.evaluate("() => window.call.restart()")
        figures = wait_for_audio(tab, figures)
    assert figures["trickled"]
    assert {status for _, status in figures["trickled"]} == {accepted}
    assert figures["states"] == ["connecting", "connected"]
    assert (figures["dtls"], figures["certificate"]) == ("connected", first["certificate"])
    tab.page.close()


def wait_for_audio(tab: TalkPage, before: dict[str, Any]) -> dict[str, Any]:
    """Wait until a new pair with new credentials is in use, and half a second of audio has arrived."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        now: dict[str, Any] = tab.page.evaluate(FIGURES)
        renewed = now["ufrag"] != before["ufrag"] and now["pair"] != before["pair"] and now["answered"] > 0
        if renewed and now["heard"] >= before["heard"] + 25:
            return now
        assert time.monotonic() < deadline, f"{now} after {before}"
        tab.page.wait_for_timeout(50)
