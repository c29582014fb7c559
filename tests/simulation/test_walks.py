"""The files and function calls that one packet visits in the transceiver.

Calls are counted instead of time, so the figures are the same on every machine. Each test prints its walk.
"""

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType

from antiphon_common.rtp_extensions import ABSOLUTE_SEND_TIME, AUDIO_LEVEL, MID, TRANSPORT_SEQUENCE
from antiphon_transceiver.rtp import RtpOptions
from support.net.impairment import Impairment
from support.sim.world import SimulatedClient, SimulatedTransceiver, World

LIKE_A_BROWSER = RtpOptions(
    {AUDIO_LEVEL: 1, ABSOLUTE_SEND_TIME: 2, TRANSPORT_SEQUENCE: 3, MID: 4}, "0", ("transport-cc",), reduced_size=True
)
LIKE_WIFI = Impairment(delay=0.02, jitter=0.005)
PACKAGES = ("antiphon_transceiver", "antiphon_common")


class Walk:
    """Calls of Python functions of the transceiver and of `common`."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        """By file, relative to its package's folder, and qualified name."""

    def follow(self, function: Callable[..., object], *arguments: object) -> None:
        """Run a function and count its calls."""
        before = sys.getprofile()
        sys.setprofile(self._count)
        try:
            function(*arguments)
        finally:
            sys.setprofile(before)

    def _count(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            code = frame.f_code
            for package in PACKAGES:
                _, found, file = code.co_filename.rpartition(f"/{package}/")
                if found:
                    self.calls[f"{package}/{file}", code.co_qualname] += 1

    @property
    def files(self) -> set[str]:
        """The visited files of the transceiver."""
        return {file for file, _ in self.calls if file.startswith("antiphon_transceiver/")}

    def __str__(self) -> str:
        lines = [f"{count:4} {file} {name}" for (file, name), count in sorted(self.calls.items())]
        return "\n".join([f"{len(self.files)} files, {self.calls.total()} calls", *lines])


def connected(**options: str) -> tuple[World, SimulatedClient, SimulatedTransceiver]:
    world = World()
    client = world.call(options=LIKE_A_BROWSER, impairment=LIKE_WIFI, **options)  # type: ignore[arg-type]
    assert world.run(5, lambda: client.connected)
    return world, client, world.transceivers[0]


def median_walk(walks: list[Walk]) -> Walk:
    """Return the walk of median length."""
    return sorted(walks, key=lambda walk: walk.calls.total())[len(walks) // 2]


def test_an_uplink_rtp_packet_visits_few_files_and_functions() -> None:
    world, client, there = connected(behaviour="silent")
    client.next_frame = world.now
    world.run(5)
    receive, walks = there.receive, list[Walk]()

    def followed(data: bytes, relay: tuple[str, int]) -> None:
        walk = Walk()
        walk.follow(receive, data, relay)
        walk.follow(there.drain)
        walks.append(walk)

    there.receive = followed  # type: ignore[method-assign]
    world.run(1)
    walk = median_walk(walks)
    print(walk)
    assert len(walk.files) <= 18
    assert walk.calls.total() <= 47


def test_a_downlink_frame_visits_few_files_and_functions() -> None:
    world, _, there = connected(behaviour="stories")
    world.run(2)
    received, sent = list[Walk](), list[Walk]()
    receive, wake = there.receive_message, there.handle_timeout

    def followed(*arguments: object) -> None:
        walk = Walk()
        walk.follow(receive, *arguments)
        received.append(walk)

    def followed_to_its_end(now: float) -> None:
        walk = Walk()
        walk.follow(wake, now)
        walk.follow(there.drain)
        sent.append(walk)

    there.receive_message = followed  # type: ignore[method-assign, assignment]
    there.handle_timeout = followed_to_its_end  # type: ignore[method-assign]
    world.run(0.5)
    walk = median_walk(received)
    walk.calls += median_walk(sent).calls
    print(walk)
    assert len(walk.files) <= 17
