"""A Chromium behind a NAT in one namespace, all of Antiphon in another, and the network between them."""

import os
import sys
from bisect import bisect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from playwright.sync_api import Playwright

from support.audio.correlation import known_speech, write_wav
from support.audio.listening import LONGEST_DELAY, WINDOW_SECONDS, Curve, RecordingAnalysis, listen
from support.net.impairment import PERFECT, Impairment
from support.net.namespaces import HostPlan, Network, network
from support.peers.browser import Buffered, TalkPage, chromium
from support.processes.services import Service

CALLER = "caller"
SERVER, SECOND_INGRESS = "198.51.100.2", "198.51.100.3"
URL = f"http://{SERVER}:8080"
OVERLAP = 1.0 + LONGEST_DELAY + 1.0
"""Seconds that each piece of a recording repeats from the one before.

The first is not analysed, the next hold the speech sent before, and a gap may have begun in the last.
"""


class CallRecording(NamedTuple):
    """A recording of one call: its analysis, Chromium's jitter buffer delay in each window, in seconds, and the
    server's statistics of the call."""

    analysis: RecordingAnalysis
    buffer: Curve
    server: dict[str, Any]

    @property
    def ours(self) -> Curve:
        """The delay of each window in seconds, without that of Chromium's jitter buffer."""
        return self.analysis.delays - self.buffer

    @property
    def discarded(self) -> int:
        """Packets of the caller that arrived in time but were not decoded."""
        uplink = self.server["uplink"]
        return int(self.server["received_packets"] - sum(uplink[name] for name in ("received", "duplicate", "invalid")))

    @property
    def late(self) -> float:
        """The share of the caller's packets that arrived after their playout time."""
        return float(self.server["uplink"]["late"] / self.server["uplink"]["received"])

    def __str__(self) -> str:
        uplink = {name: count for name, count in self.server["uplink"].items() if count}
        return (
            f"{self.analysis}; without Chromium's jitter buffer {1000 * np.median(self.ours):.0f} ms, "
            f"p95 {1000 * np.percentile(self.ours, 95):.0f} ms; {uplink}"
        )


class Internet:
    """The caller's network and its browser. `impair` changes the network; `call` and `record` make calls."""

    def __init__(self, network: Network, new_tab: Callable[[], TalkPage]) -> None:
        self._network = network
        self._new_tab = new_tab

    def impair(self, impairment: Impairment, *, after: float = 0.0) -> None:
        """Change both directions of the caller's network after `after` seconds."""
        self._network.impair(CALLER, impairment, impairment, after=after)

    def interrupt(self, seconds: float, *, after: float, otherwise: Impairment = PERFECT) -> None:
        self._network.interrupt(CALLER, seconds, otherwise, after=after)

    def rebind(self, *, after: float) -> None:
        """Make the caller's NAT drop its mappings."""
        self._network.rebind(CALLER, after=after)

    @property
    def too_long(self) -> int:
        """Packets to the caller that were longer than the MTU of its network."""
        return self._network.figures().hosts[CALLER].down["too_long"]

    def call(self) -> TalkPage:
        """Make a call. Return the page once the call is connected."""
        tab = self._new_tab()
        tab.open(URL)
        tab.talk()
        return tab

    def record(self, seconds: float, prepare: Callable[[TalkPage], None] = lambda tab: None) -> CallRecording:
        """Make a call, record it, and return its analysis. `prepare` is called when the recording begins."""
        (recording,) = self.pieces(seconds, 1, prepare)
        return recording

    def pieces(
        self, seconds: float, count: int, prepare: Callable[[TalkPage], None] = lambda tab: None
    ) -> Iterator[CallRecording]:
        """Make one call and yield its recording in pieces of `seconds` each, without gaps between them."""
        tab = self.call()
        tab.start_recording()
        prepare(tab)
        for piece in range(count):
            stereo = tab.recording(seconds if piece == 0 else seconds + OVERLAP)
            analysis = listen(*stereo)
            recording = CallRecording(analysis, _buffer_delays(tab.buffered(), analysis), tab.own_statistics())
            if piece == count - 1:
                tab.hang_up()
                tab.page.close()
            else:
                tab.forget(OVERLAP)
            yield recording


def _buffer_delays(buffered: list[Buffered], analysis: RecordingAnalysis) -> Curve:
    """Return the delay of Chromium's jitter buffer in each window, by the difference of two of its reports."""
    held, times = [], [report.at for report in buffered]
    for start in analysis.times:
        after = min(bisect(times, start + WINDOW_SECONDS), len(buffered) - 1)
        before = max(0, min(bisect(times, start) - 1, after - 1))
        samples = buffered[after].samples - buffered[before].samples
        held.append((buffered[after].seconds - buffered[before].seconds) / samples if samples else float("nan"))
    return np.array(held)


@contextmanager
def internet(playwright: Playwright, folder: Path, backend: str = "antiphon_backend.loopback") -> Iterator[Internet]:
    """Run Antiphon with the module `backend`, and Chromium behind a NAT. Files are written into `folder`."""
    plans = (HostPlan("server", (SERVER, SECOND_INGRESS)), HostPlan(CALLER, ("192.168.1.2",), nat="203.0.113.7"))
    settings = ["--http", f"{SERVER}:8080", "--control", "127.0.0.1:0"]
    settings += ["--backend", "test=ws://127.0.0.1:9000", "--admin", "127.0.0.1:9090", "--no-auth"]
    settings += [f"--media={address}:3478" for address in (SERVER, SECOND_INGRESS)]
    microphone = write_wav(folder / "speech.wav", known_speech())
    # Plain HTTP is no secure context by itself, and only those have a microphone.
    trusting = f"--unsafely-treat-insecure-origin-as-secure={URL}"
    with network(*plans) as network_between, ExitStack() as services:
        python = (*network_between["server"].command, sys.executable, "-m")
        services.enter_context(Service(backend, command=python)).wait_ready()
        antiphon = services.enter_context(Service("antiphon", *settings, command=python))
        antiphon.wait_ready()
        program = network_between[CALLER].launcher("chromium", folder)
        with (
            patch.dict(os.environ, PATH=f"{program.parent}:{os.environ['PATH']}"),
            chromium(playwright, microphone, trusting) as new_tab,
        ):
            yield Internet(network_between, new_tab)
