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
from support.audio.listening import LONGEST_DELAY, WINDOW_SECONDS, Curve, Hearing, listen
from support.net.impairment import PERFECT, Impairment
from support.net.namespaces import HostPlan, Network, network
from support.peers.browser import Buffered, TalkPage, chromium
from support.processes.services import Service

CALLER = "caller"
SERVER, SECOND_INGRESS = "198.51.100.2", "198.51.100.3"
URL = f"http://{SERVER}:8080"
OVERLAP = 1.0 + LONGEST_DELAY + 1.0
"""Seconds of which each piece of a recording needs to know again: the first is not looked at, the next are what was
said before, and in the last a gap may have begun."""


class Recording(NamedTuple):
    """What the caller heard; for how many seconds Chromium's own jitter buffer held each window of it; and the server's
    figures of the call."""

    hearing: Hearing
    buffer: Curve
    server: dict[str, Any]

    @property
    def ours(self) -> Curve:
        """The delay of each window without Chromium's part."""
        return self.hearing.delays - self.buffer

    @property
    def discarded(self) -> int:
        """Packets of the caller that came in time, and went no further."""
        uplink = self.server["uplink"]
        return int(self.server["received_packets"] - sum(uplink[name] for name in ("received", "duplicate", "invalid")))

    @property
    def late(self) -> float:
        """The share of the caller's packets that came after their playout time."""
        return float(self.server["uplink"]["late"] / self.server["uplink"]["received"])

    def __str__(self) -> str:
        uplink = {name: count for name, count in self.server["uplink"].items() if count}
        return (
            f"{self.hearing}; without Chromium's jitter buffer {1000 * np.median(self.ours):.0f} ms, "
            f"p95 {1000 * np.percentile(self.ours, 95):.0f} ms; {uplink}"
        )


class Internet:
    """The caller's network and its browser."""

    def __init__(self, network: Network, new_tab: Callable[[], TalkPage]) -> None:
        self._network = network
        self._new_tab = new_tab

    def impair(self, impairment: Impairment, *, after: float = 0.0) -> None:
        """Change the caller's network, both directions, after so many seconds."""
        self._network.impair(CALLER, impairment, impairment, after=after)

    def interrupt(self, seconds: float, *, after: float, otherwise: Impairment = PERFECT) -> None:
        self._network.interrupt(CALLER, seconds, otherwise, after=after)

    def rebind(self, *, after: float) -> None:
        """Let the caller's NAT forget its ports."""
        self._network.rebind(CALLER, after=after)

    @property
    def too_long(self) -> int:
        """Packets to the caller that were longer than its network takes."""
        return self._network.figures().hosts[CALLER].down["too_long"]

    def call(self) -> TalkPage:
        """Make a call; return the page once it is connected."""
        tab = self._new_tab()
        tab.open(URL)
        tab.talk()
        return tab

    def record(self, seconds: float, prepare: Callable[[TalkPage], None] = lambda tab: None) -> Recording:
        """Make a call, let `prepare` plan some trouble as the recording begins, and listen to it."""
        (recording,) = self.pieces(seconds, 1, prepare)
        return recording

    def pieces(
        self, seconds: float, count: int, prepare: Callable[[TalkPage], None] = lambda tab: None
    ) -> Iterator[Recording]:
        """Make one call, and listen to it piece by piece, each of so many seconds, that have no gap between them."""
        tab = self.call()
        tab.start_recording()
        prepare(tab)
        for piece in range(count):
            stereo = tab.recording(seconds if piece == 0 else seconds + OVERLAP)
            hearing = listen(*stereo)
            recording = Recording(hearing, _held(tab.buffered(), hearing), tab.own_statistics())
            if piece == count - 1:
                tab.hang_up()
                tab.page.close()
            else:
                tab.forget(OVERLAP)
            yield recording


def _held(buffered: list[Buffered], hearing: Hearing) -> Curve:
    """Return how long Chromium's jitter buffer held each window, by the difference of what it told before and after."""
    held, times = [], [told.at for told in buffered]
    for start in hearing.times:
        after = min(bisect(times, start + WINDOW_SECONDS), len(buffered) - 1)
        before = max(0, min(bisect(times, start) - 1, after - 1))
        samples = buffered[after].samples - buffered[before].samples
        held.append((buffered[after].seconds - buffered[before].seconds) / samples if samples else float("nan"))
    return np.array(held)


@contextmanager
def internet(playwright: Playwright, folder: Path, backend: str = "antiphon_backend.loopback") -> Iterator[Internet]:
    """Set everything up, with a module as the backend. Whatever it needs to write goes into `folder`."""
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
