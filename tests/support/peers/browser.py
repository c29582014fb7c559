"""Chromium as a caller: the real talk page, a known sound as its microphone, and a recorder inside."""

import base64
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from playwright.sync_api import BrowserContext, Page, Playwright

from support.audio.correlation import RATE, Samples
from support.net.gaps import Gap

PROGRAM = "chromium"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)
DEADLINE_MS = 15_000
SLACK = 40.0
"""Seconds that a recording may take longer than it lasts: on a busy machine the sound itself falls behind."""

QUIET_LOOKS = 10
"""How often, 50 ms apart, the packet counts must be the same to be final."""

RECORDER = """
registerProcessor("recorder", class extends AudioWorkletProcessor {
  process([input]) {
    if (input.length === 2) this.port.postMessage([input[0].slice(), input[1].slice()]);
    return true;
  }
});
"""
START_RECORDER = """
async (script) => {
  const { localStream, remoteStream } = window.antiphon;
  const context = new AudioContext({ sampleRate: 48000 });
  await context.audioWorklet.addModule(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  const recorder = new AudioWorkletNode(context, "recorder", { channelCount: 2, channelCountMode: "explicit" });
  const both = new ChannelMergerNode(context, { numberOfInputs: 2 });
  const mono = { channelCount: 1, channelCountMode: "explicit" };
  [localStream, remoteStream].forEach((stream, channel) =>
    context.createMediaStreamSource(stream).connect(new GainNode(context, mono)).connect(both, 0, channel));
  both.connect(recorder).connect(context.destination);
  window.recorded = [];
  window.buffered = [];
  window.forgotten = 0;
  recorder.port.onmessage = ({ data }) => window.recorded.push(data);
  setInterval(async () => {
    const figures = await window.antiphon.peerConnection?.getStats();
    const told = [...(figures?.values() ?? [])].find(({ type }) => type === "inbound-rtp");
    if (told)
      window.buffered.push([
        window.forgotten + window.recorded.length, told.jitterBufferDelay, told.jitterBufferEmittedCount]);
  }, 200);
}
"""
TAKE_BUFFERED = """
() => window.buffered.map(([at, delay, count]) => [(at - window.forgotten) * 128 / 48000, delay, count])
"""
FORGET = """
(seconds) => {
  const old = window.recorded.length - Math.round(seconds * 48000 / 128);
  window.recorded.splice(0, old);
  window.forgotten += old;
}
"""
OWN_STATISTICS = "async () => (await fetch(`/v1/realtime/calls/${window.antiphon.callId}/stats`)).json()"
RECORDED_SECONDS = "() => window.recorded.length * 128 / 48000"
TAKE_RECORDING = """
(channel) => {
  const pcm = new Int16Array(window.recorded.length * 128);
  window.recorded.forEach((quantum, index) =>
    quantum[channel].forEach((sample, offset) => { pcm[index * 128 + offset] = Math.round(sample * 32767); }));
  const bytes = new Uint8Array(pcm.buffer);
  let text = "";
  for (let start = 0; start < bytes.length; start += 32768)
    text += String.fromCharCode(...bytes.subarray(start, start + 32768));
  return btoa(text);
}
"""
WATCH_GAPS = """
() => {
  const gap = (window.gap = { longest: 0, first: 0, last: 0, packets: 0 });
  setInterval(async () => {
    const figures = await window.antiphon.peerConnection?.getStats();
    const told = [...(figures?.values() ?? [])].find(({ type }) => type === "inbound-rtp");
    if (!told || told.packetsReceived <= gap.packets) return;
    const last = told.lastPacketReceivedTimestamp / 1000;
    if (gap.packets) gap.longest = Math.max(gap.longest, last - gap.last);
    else gap.first = last;
    [gap.last, gap.packets] = [last, told.packetsReceived];
  }, 50);
}
"""
TAKE_GAP = """
() => {
  const silent = Date.now() / 1000 - window.gap.last;
  const taken = { ...window.gap, longest: Math.max(window.gap.longest, silent), silent };
  window.gap.longest = 0;
  return taken;
}
"""
STATISTICS = "async () => [...(await window.antiphon.peerConnection.getStats()).values()]"


class Buffered(NamedTuple):
    """Chromium's jitter buffer at some time of a recording: for how many samples in all it gave out how many seconds
    it held them, summed up."""

    at: float
    seconds: float
    samples: int


class Stereo(NamedTuple):
    """What the page heard and, sample for sample beside it, what its microphone said, at 48 kHz."""

    heard: Samples
    said: Samples


class TalkPage:
    """The talk page in one tab."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.set_default_timeout(DEADLINE_MS)

    def open(self, url: str, query: str = "processing=off") -> None:
        self.page.goto(f"{url}/?{query}")

    def press(self) -> None:
        """Press the one button."""
        self.page.click("#talk")

    def talk(self) -> None:
        """Press the button and wait until the call is connected."""
        self.press()
        self.wait_state("connected")

    def hang_up(self) -> None:
        self.press()
        self.wait_state("ended")

    @property
    def state(self) -> str:
        return str(self.page.evaluate("() => window.antiphon.state"))

    @property
    def call_id(self) -> str:
        return str(self.page.evaluate("() => window.antiphon.callId"))

    def wait_state(self, state: str) -> None:
        """Wait for a state; say what the page says when it does not come."""
        try:
            self.page.wait_for_function("(state) => window.antiphon.state === state", arg=state)
        except Exception as error:
            raise AssertionError(f"the page is {self.state}, not {state}: {self.text('#problem')}") from error

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def level(self, name: str) -> int:
        """How high a level meter stands, 0 to 100."""
        return int(self.page.get_attribute(f"#{name}-level", "aria-valuenow") or 0)

    def start_recording(self) -> None:
        self.page.evaluate(START_RECORDER, RECORDER)

    def recording(self, seconds: float) -> Stereo:
        """Wait until so much is recorded, and return it but for the first second, in which recorders get going."""
        deadline = time.monotonic() + seconds + SLACK
        while (recorded := self.page.evaluate(RECORDED_SECONDS)) < seconds:
            assert time.monotonic() < deadline, f"only {recorded:.1f} of {seconds:.0f} s were recorded"
            self.page.wait_for_timeout(100)
        return Stereo(self._channel(1)[RATE:], self._channel(0)[RATE:])

    def buffered(self) -> list[Buffered]:
        """Return what Chromium's jitter buffer did meanwhile; times are those of the last `recording`."""
        return [Buffered(at - 1.0, seconds, samples) for at, seconds, samples in self.page.evaluate(TAKE_BUFFERED)]

    def forget(self, but: float) -> None:
        """Go on recording without what is older than so many seconds."""
        self.page.evaluate(FORGET, but)

    def own_statistics(self) -> dict[str, Any]:
        """Return the server's figures of the call."""
        return dict(self.page.evaluate(OWN_STATISTICS)["statistics"])

    def watch_gaps(self) -> None:
        """Note from now on when the packets of the server arrive."""
        self.page.evaluate(WATCH_GAPS)

    def take_gap(self) -> Gap:
        """Return the longest gap since asked before, as Chromium counts what arrives; looked at every 50 ms."""
        taken = self.page.evaluate(TAKE_GAP)
        last = time.monotonic() - taken.pop("silent")
        return Gap(taken["longest"], last - (taken["last"] - taken["first"]), last, taken["packets"])

    def fall_silent(self) -> None:
        """Send no more audio, and wait until none comes back either."""
        self.page.evaluate("() => window.antiphon.peerConnection.getSenders()[0].replaceTrack(null)")
        counts: list[int] = []
        while len(counts) < QUIET_LOOKS or len(set(counts[-QUIET_LOOKS:])) > 1:
            self.page.wait_for_timeout(50)
            both = self.statistics("inbound-rtp") + self.statistics("outbound-rtp")
            counts.append(sum(report.get("packetsReceived", 0) + report.get("packetsSent", 0) for report in both))

    def statistics(self, kind: str) -> list[dict[str, Any]]:
        """Return the reports of one type of the call's getStats."""
        return [report for report in self.page.evaluate(STATISTICS) if report["type"] == kind]

    def _channel(self, index: int) -> Samples:
        pcm = np.frombuffer(base64.b64decode(self.page.evaluate(TAKE_RECORDING, index)), "<i2")
        return (pcm / 32768).astype(np.float32)


@contextmanager
def chromium(playwright: Playwright, microphone: Path, *arguments: str) -> Iterator[Callable[[], TalkPage]]:
    """Run Chromium with a WAV file, looped, as its microphone. What it gives opens a new tab.

    The page's content security policy allows no script but its own, so it does not bind what a test injects.
    """
    program = shutil.which(PROGRAM)
    assert program, "chromium is missing: apt-get install chromium"
    flags = [*FLAGS, f"--use-file-for-fake-audio-capture={microphone}", *arguments]
    with tempfile.TemporaryDirectory() as profile:
        context: BrowserContext = playwright.chromium.launch_persistent_context(
            profile, executable_path=program, args=flags, headless=True, bypass_csp=True
        )
        try:
            yield lambda: TalkPage(context.new_page())
        finally:
            context.close()
