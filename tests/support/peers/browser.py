"""Chromium as a caller: the real talk page, a known sound as its microphone, and a recorder in the page."""

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
"""Seconds by which a recording may take longer than its length: on a busy machine the audio itself lags."""

QUIET_LOOKS = 10
"""Number of equal readings of the packet counts, 50 ms apart, after which they are final."""

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
    const report = [...(figures?.values() ?? [])].find(({ type }) => type === "inbound-rtp");
    if (report)
      window.buffered.push([
        window.forgotten + window.recorded.length, report.jitterBufferDelay, report.jitterBufferEmittedCount]);
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
    const report = [...(figures?.values() ?? [])].find(({ type }) => type === "inbound-rtp");
    if (!report || report.packetsReceived <= gap.packets) return;
    const last = report.lastPacketReceivedTimestamp / 1000;
    if (gap.packets) gap.longest = Math.max(gap.longest, last - gap.last);
    else gap.first = last;
    [gap.last, gap.packets] = [last, report.packetsReceived];
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
    """The cumulative statistics of Chromium's jitter buffer at the time `at` of a recording.

    `samples` left the buffer so far; `seconds` is the sum of their delays in it.
    """

    at: float
    seconds: float
    samples: int


class Stereo(NamedTuple):
    """The audio that the page received and, sample for sample, that of its microphone, at 48 kHz."""

    received: Samples
    sent: Samples


class TalkPage:
    """The talk page in one tab. `open` it, then `talk` makes a call."""

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
        """Wait for a state. Raises AssertionError with the page's message when it does not come."""
        try:
            self.page.wait_for_function("(state) => window.antiphon.state === state", arg=state)
        except Exception as error:
            raise AssertionError(f"the page is {self.state}, not {state}: {self.text('#problem')}") from error

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def level(self, name: str) -> int:
        """Return the value of a level meter, 0 to 100."""
        return int(self.page.get_attribute(f"#{name}-level", "aria-valuenow") or 0)

    def start_recording(self) -> None:
        self.page.evaluate(START_RECORDER, RECORDER)

    def recording(self, seconds: float) -> Stereo:
        """Wait for `seconds` of recording, and return them without the first second, in which recorders start."""
        deadline = time.monotonic() + seconds + SLACK
        while (recorded := self.page.evaluate(RECORDED_SECONDS)) < seconds:
            assert time.monotonic() < deadline, f"only {recorded:.1f} of {seconds:.0f} s were recorded"
            self.page.wait_for_timeout(100)
        return Stereo(self._channel(1)[RATE:], self._channel(0)[RATE:])

    def buffered(self) -> list[Buffered]:
        """Return the statistics of Chromium's jitter buffer. Times are those of the last `recording`."""
        return [Buffered(at - 1.0, seconds, samples) for at, seconds, samples in self.page.evaluate(TAKE_BUFFERED)]

    def forget(self, but: float) -> None:
        """Drop the part of the recording that is older than `but` seconds."""
        self.page.evaluate(FORGET, but)

    def own_statistics(self) -> dict[str, Any]:
        """Return the server's statistics of the call."""
        return dict(self.page.evaluate(OWN_STATISTICS)["statistics"])

    def watch_gaps(self) -> None:
        """Record from now on when packets of the server arrive."""
        self.page.evaluate(WATCH_GAPS)

    def take_gap(self) -> Gap:
        """Return the gaps in the packets that Chromium counts, read every 50 ms, since the last call of this method."""
        taken = self.page.evaluate(TAKE_GAP)
        last = time.monotonic() - taken.pop("silent")
        return Gap(taken["longest"], last - (taken["last"] - taken["first"]), last, taken["packets"])

    def fall_silent(self) -> None:
        """Stop sending audio, and wait until no more comes back."""
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
    """Run Chromium with a WAV file, looped, as its microphone. The value opens a new tab.

    The page's content security policy is bypassed, so that tests can inject scripts.
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
