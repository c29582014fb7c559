"""A Chromium behind a NAT in one namespace, all of Antiphon in another, and the network between them."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from playwright.sync_api import Playwright

from support.browser import TalkPage, chromium
from support.correlation import known_speech, write_wav
from support.impairment import PERFECT, Impairment
from support.listening import Hearing, listen
from support.namespaces import HostPlan, Network, network
from support.processes import Service

CALLER = "caller"
SERVER = "198.51.100.2"
URL = f"http://{SERVER}:8080"


class Recording(NamedTuple):
    """What the caller heard, and the seconds for which Chromium's own jitter buffer held it on average."""

    hearing: Hearing
    buffer: float

    def __str__(self) -> str:
        return f"{self.hearing}; {self.buffer * 1000:.0f} ms of the delay are Chromium's jitter buffer"


class Internet:
    """The caller's network and its browser."""

    def __init__(self, network: Network, new_tab: Callable[[], TalkPage]) -> None:
        self._network = network
        self._new_tab = new_tab

    def impair(self, impairment: Impairment) -> None:
        """Change the caller's network, both directions."""
        self._network.impair(CALLER, impairment, impairment)

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
        tab = self.call()
        tab.start_recording()
        prepare(tab)
        stereo = tab.recording(seconds)
        (inbound,) = tab.statistics("inbound-rtp")
        tab.hang_up()
        tab.page.close()
        return Recording(listen(*stereo), inbound["jitterBufferDelay"] / inbound["jitterBufferEmittedCount"])


@contextmanager
def internet(playwright: Playwright, folder: Path, backend: str = "antiphon_backend.loopback") -> Iterator[Internet]:
    """Set everything up, with a module as the backend. Whatever it needs to write goes into `folder`."""
    plans = (HostPlan("server", (SERVER,)), HostPlan(CALLER, ("192.168.1.2",), nat="203.0.113.7"))
    settings = ["--http", f"{SERVER}:8080", "--media", f"{SERVER}:3478", "--control", "127.0.0.1:0"]
    settings += ["--backend", "test=ws://127.0.0.1:9000", "--admin", "127.0.0.1:9090", "--no-auth"]
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
