"""A cluster loses its members one by one while it has calls. It prints a table with a row for each event."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from math import inf
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Playwright

from support.processes.fleet import CALLERS, PAIR, RELAYS, URL, URL_BY_LONE, WORKERS, RunningFleet, fleet
from support.processes.fleet_callers import ReceivedAudio

SETTLE_SECONDS = 2.0
REDIS_SECONDS = 60.0
FRESH_SECONDS = 1.0
"""A call without a packet for this long at the end of an event is lost."""

UNTOUCHED = 0.06
"""Gaps shorter than this, in seconds, are not caused by the event."""


SHARED_MACHINE = 0.85
"""Longest stall of a shared machine in seconds. Without `--due`, a gap may be longer than allowed by this much.

A failure that the cluster does not repair by itself takes longer still: callers' checks are seconds apart.
"""


class Due(NamedTuple):
    """Longest gaps in seconds that an event may cause: in calls by the shared address, and in that by the lone ingress.

    The gaps without an event are added, and the stall of the machine: the growth of the other calls' gaps in that
    direction.
    """

    shared: float = 0.15
    lone_up: float = inf
    lone_down: float = inf


USUAL, ANYTHING = Due(), Due(shared=inf)


class LongestGaps(NamedTuple):
    """The longest gaps in seconds: of callers that send and receive audio, up and down; of callers that only listen; of
    foreign clients, whose counters are read every 10 to 50 ms; and of the call by the lone ingress."""

    up: float
    down: float
    listening: float
    others: float
    lone_up: float
    lone_down: float
    lost_calls: list[str]
    """Their ids, and the reason of each that ended."""
    untouched_lost: int
    """Packets lost by calls without a gap."""

    @property
    def gaps(self) -> tuple[float, ...]:
        return self.up, self.down, self.listening, self.others, self.lone_up, self.lone_down

    def beyond(self, due: Due, before: "LongestGaps") -> float:
        """Return the largest excess of a gap over its limit. `before` are the gaps without an event."""
        down, down_before = max(self.down, self.listening), max(before.down, before.listening)
        up_later, down_later = self.up - before.up, down - down_before
        lone_up_later, lone_down_later = self.lone_up - before.lone_up, self.lone_down - before.lone_down
        return max(
            up_later - due.shared - _stalled(lone_up_later),
            down_later - due.shared - _stalled(lone_down_later),
            lone_up_later - due.lone_up - _stalled(up_later),
            lone_down_later - due.lone_down - _stalled(down_later),
        )

    def __str__(self) -> str:
        return "".join(f"{1000 * gap:10.0f}" for gap in self.gaps) + f"{len(self.lost_calls):10}"


def _stalled(beside: float) -> float:
    """Return how long the machine stalled, given the growth of a gap in calls that the event did not affect."""
    return min(max(0.0, beside), SHARED_MACHINE)


COLUMNS = ("up", "down", "listening", "others", "lone up", "lone down", "lost calls")


class GapMonitor:
    """Measures the gaps that each event causes in the calls of a fleet. `expect` runs an event."""

    def __init__(self, running: RunningFleet, lone: str, tolerance: float) -> None:
        self.fleet = running
        self._lone = lone
        self._tolerance = tolerance
        self._losses: dict[str, int] = {}
        self.failures: list[str] = []
        print(f"\n{'the longest gap, in ms':34}{''.join(f'{name:>10}' for name in COLUMNS)}")
        self._before = self._measure(lambda: None, 4.0)
        print(f"{'nothing':34}{self._before}", flush=True)

    def expect(self, name: str, event: Callable[[], object], seconds: float, due: Due = USUAL) -> LongestGaps:
        """Run an event, measure for `seconds`, print the gaps, and record lost calls and excessive gaps as failures."""
        longest = self._measure(event, seconds)
        if longest.lost_calls:
            self.failures.append(f"{name}: calls lost: {', '.join(longest.lost_calls)}")
        beyond = longest.beyond(due, self._before)
        print(f"{name:34}{longest}", f"  {1000 * beyond:.0f} more than is due" * (beyond > 0), flush=True)
        if beyond > self._tolerance:
            self.failures.append(f"{name}: a gap {1000 * beyond:.0f} ms longer than is due")
        time.sleep(SETTLE_SECONDS)
        return longest

    def _measure(self, event: Callable[[], object], seconds: float) -> LongestGaps:
        self._take()
        event()
        time.sleep(seconds)
        return self._take()

    def _take(self) -> LongestGaps:
        down, up = self.fleet.received_by_callers(), self.fleet.received_by_backends()
        now = time.monotonic()
        lost = [
            f"{call} ({'foreign, ' * received.foreign}{received.gap.packets} packets) {received.closed}"
            for call, received in down.items()
            if received.closed or now - received.gap.last > FRESH_SECONDS
        ]
        shared = {call: received for call, received in down.items() if call != self._lone}
        new_losses = {call: received.lost - self._losses.get(call, 0) for call, received in shared.items()}
        self._losses = {call: received.lost for call, received in down.items()}

        def longest(of: Iterable[ReceivedAudio]) -> float:
            return max(received.gap.longest for received in of)

        return LongestGaps(
            max(up[call].longest for call, received in shared.items() if received.speaks),
            longest(received for received in shared.values() if received.speaks and not received.foreign),
            longest(received for received in shared.values() if not received.speaks),
            longest(received for received in shared.values() if received.foreign),
            up[self._lone].longest,
            down[self._lone].gap.longest,
            lost,
            sum(new_losses[call] for call, received in shared.items() if received.gap.longest < UNTOUCHED),
        )


@contextmanager
def monitored_fleet(playwright: Playwright, folder: Path, tolerance: float, *, redis: bool) -> Iterator[GapMonitor]:
    """Make twenty calls: sixteen of the test client, two of aiortc, two of Chromium, one of them by the lone ingress.

    All failures are reported together at the end.
    """
    with fleet(folder, redis=redis) as running, running.browser(playwright):
        running.wait_for_holder()
        running.call(speaking=9, listening=7, aiortc=2)
        running.browse(URL)
        lone = running.browse(URL_BY_LONE)
        time.sleep(SETTLE_SECONDS)
        monitor = GapMonitor(running, lone.call_id, tolerance)
        yield monitor
        assert not monitor.failures, "\n".join(monitor.failures)


@pytest.fixture
def tolerance(request: pytest.FixtureRequest) -> float:
    return 0.0 if request.config.getoption("--due") else SHARED_MACHINE


def test_calls_survive_the_loss_of_each_member(playwright: Playwright, tmp_path: Path, tolerance: float) -> None:
    with monitored_fleet(playwright, tmp_path, tolerance, redis=True) as monitor:
        lose_relays(monitor)
        lose_the_lone_relay(monitor)
        lose_redis(monitor)
        roll(monitor)
        lose_the_rest(monitor)


def test_calls_survive_the_loss_of_relays_without_redis(
    playwright: Playwright, tmp_path: Path, tolerance: float
) -> None:
    with monitored_fleet(playwright, tmp_path, tolerance, redis=False) as monitor:
        lose_relays(monitor)


def lose_relays(monitor: GapMonitor) -> None:
    """Kill workers and the host that has the shared address, and spread packets over both relays."""
    cluster = monitor.fleet
    for pid in cluster.workers(cluster.holder())[:WORKERS]:
        killed = monitor.expect("a worker is killed", partial(os.kill, pid, signal.SIGKILL), 3.0)
        if killed.untouched_lost:
            monitor.failures.append(f"flows of other workers lost {killed.untouched_lost} packets")
    holder = cluster.holder()
    monitor.expect("the host of the shared address", partial(cluster.kill_host, holder), 4.0)
    monitor.expect("it comes back", partial(cluster.revive_host, holder), 3.0)
    with cluster.spraying():
        monitor.expect("packets sprayed over both relays", lambda: None, 5.0)
    cluster.wait_for_holder()


def lose_the_lone_relay(monitor: GapMonitor) -> None:
    monitor.expect(
        "the lone relay's host", partial(monitor.fleet.kill_host, "relay-c"), 8.0, Due(lone_up=4.0, lone_down=0.15)
    )
    monitor.fleet.revive_host("relay-c")


def lose_redis(monitor: GapMonitor) -> None:
    cluster = monitor.fleet
    monitor.expect("Redis stops", cluster.stop_redis, REDIS_SECONDS)
    monitor.expect("Redis comes back", cluster.start_redis, 3.0)

    def forget_everything() -> None:
        cluster.flush_redis()
        for name in RELAYS:
            cluster.kill_service(name)
        cluster.start_services(*RELAYS)

    monitor.expect("Redis flushed, all relays restarted", forget_everything, 6.0, ANYTHING)


def roll(monitor: GapMonitor) -> None:
    """Replace each member in turn, as a rollout does."""
    cluster = monitor.fleet

    def replace(name: str) -> None:
        if name in PAIR:
            cluster.stop_keepalived(name)
        cluster.stop_service(name)
        cluster.start_services(name)
        if name in PAIR:
            cluster.start_keepalived(name)

    for name in RELAYS:
        monitor.expect(f"{name} is rolled", partial(replace, name), 5.0, USUAL if name in PAIR else ANYTHING)
    for name in ("signaling-1", "signaling-2"):
        monitor.expect(f"{name} is rolled", partial(replace, name), 2.0)


def lose_the_rest(monitor: GapMonitor) -> None:
    cluster = monitor.fleet
    monitor.expect("keys are rotated", partial(cluster.rotate_keys, 5.0), 9.0)
    monitor.expect("a backend's host", partial(cluster.kill_host, "backend-1"), 8.0, ANYTHING)
    monitor.expect("the callers' path, for 3 s", partial(cluster.network.interrupt, CALLERS, 3.0), 12.0, ANYTHING)
