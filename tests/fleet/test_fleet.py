"""A cluster loses its members one by one while it holds calls. Every row of the table that this prints is an event."""

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

from support.processes.fleet import CALLERS, PAIR, RELAYS, URL, URL_BY_LONE, WORKERS, Fleet, fleet
from support.processes.fleet_callers import Heard

SETTLE_SECONDS = 2.0
REDIS_SECONDS = 60.0
FRESH_SECONDS = 1.0
"""A call of which nothing came for so long at the end of an event is lost."""

UNTOUCHED = 0.06
"""Seconds: a gap of less is none that the event made."""


SHARED_MACHINE = 0.85
"""Seconds for which a machine stalls at most, as what else runs on it takes its time from the cluster. Unless `--due`
is given, a gap may be so much longer than is due. What the cluster does not repair by itself takes longer: callers' own
checks are seconds apart."""


class Due(NamedTuple):
    """How many seconds of silence an event may cost the calls by the shared address, and the one by the lone ingress.

    Added to it is what a gap was while nothing happened, and how long the machine stalled: by how much the gaps of the
    others became longer in that direction.
    """

    shared: float = 0.15
    lone_up: float = inf
    lone_down: float = inf


USUAL, ANYTHING = Due(), Due(shared=inf)


class Longest(NamedTuple):
    """The longest gaps, in seconds: of callers that speak and hear speech, up and down, and of those that only listen;
    of what others' clients hear, which are looked at from outside, with 10 to 50 ms between two looks; and of the call
    by the lone ingress."""

    up: float
    down: float
    listening: float
    others: float
    lone_up: float
    lone_down: float
    lost_calls: list[str]
    """Who they are, and why each is over, if it is."""
    untouched_lost: int
    """Packets that calls without a gap lost all the same."""

    @property
    def gaps(self) -> tuple[float, ...]:
        return self.up, self.down, self.listening, self.others, self.lone_up, self.lone_down

    def beyond(self, due: Due, before: "Longest") -> float:
        """Return by how much a gap is longer than is due, at most; `before` are those while nothing happened."""
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
    """Return for how long the machine itself stalled, if a gap of calls that the event did not touch became so much
    longer."""
    return min(max(0.0, beside), SHARED_MACHINE)


COLUMNS = ("up", "down", "listening", "others", "lone up", "lone down", "lost calls")


class Watch:
    """The calls that a fleet holds, and what each event did to them."""

    def __init__(self, running: Fleet, lone: str, tolerance: float) -> None:
        self.fleet = running
        self._lone = lone
        self._tolerance = tolerance
        self._losses: dict[str, int] = {}
        self.failures: list[str] = []
        print(f"\n{'the longest gap, in ms':34}{''.join(f'{name:>10}' for name in COLUMNS)}")
        self._before = self._measure(lambda: None, 4.0)
        print(f"{'nothing':34}{self._before}", flush=True)

    def expect(self, name: str, event: Callable[[], object], seconds: float, due: Due = USUAL) -> Longest:
        """Let something happen, look for so many seconds at what it does, and print it. No call is to be lost, nor to
        fall silent for longer than is due."""
        longest = self._measure(event, seconds)
        if longest.lost_calls:
            self.failures.append(f"{name}: calls lost: {', '.join(longest.lost_calls)}")
        beyond = longest.beyond(due, self._before)
        print(f"{name:34}{longest}", f"  {1000 * beyond:.0f} more than is due" * (beyond > 0), flush=True)
        if beyond > self._tolerance:
            self.failures.append(f"{name}: a gap {1000 * beyond:.0f} ms longer than is due")
        time.sleep(SETTLE_SECONDS)
        return longest

    def _measure(self, event: Callable[[], object], seconds: float) -> Longest:
        self._take()
        event()
        time.sleep(seconds)
        return self._take()

    def _take(self) -> Longest:
        down, up = self.fleet.heard_by_callers(), self.fleet.heard_by_backends()
        now = time.monotonic()
        lost = [
            f"{call} ({'foreign, ' * heard.foreign}{heard.gap.packets} packets) {heard.closed}"
            for call, heard in down.items()
            if heard.closed or now - heard.gap.last > FRESH_SECONDS
        ]
        shared = {call: heard for call, heard in down.items() if call != self._lone}
        new_losses = {call: heard.lost - self._losses.get(call, 0) for call, heard in shared.items()}
        self._losses = {call: heard.lost for call, heard in down.items()}

        def longest(of: Iterable[Heard]) -> float:
            return max(heard.gap.longest for heard in of)

        return Longest(
            max(up[call].longest for call, heard in shared.items() if heard.speaks),
            longest(heard for heard in shared.values() if heard.speaks and not heard.foreign),
            longest(heard for heard in shared.values() if not heard.speaks),
            longest(heard for heard in shared.values() if heard.foreign),
            up[self._lone].longest,
            down[self._lone].gap.longest,
            lost,
            sum(new_losses[call] for call, heard in shared.items() if heard.gap.longest < UNTOUCHED),
        )


@contextmanager
def watching(playwright: Playwright, folder: Path, tolerance: float, *, redis: bool) -> Iterator[Watch]:
    """Hold twenty calls: sixteen of the test client, two of aiortc, two of Chromium, one of them by the lone ingress.

    Every failure is told at the end, so that none hides the others.
    """
    with fleet(folder, redis=redis) as running, running.browser(playwright):
        running.wait_for_holder()
        running.call(speaking=9, listening=7, aiortc=2)
        running.browse(URL)
        lone = running.browse(URL_BY_LONE)
        time.sleep(SETTLE_SECONDS)
        watch = Watch(running, lone.call_id, tolerance)
        yield watch
        assert not watch.failures, "\n".join(watch.failures)


@pytest.fixture
def tolerance(request: pytest.FixtureRequest) -> float:
    return 0.0 if request.config.getoption("--due") else SHARED_MACHINE


def test_members_are_lost_one_by_one(playwright: Playwright, tmp_path: Path, tolerance: float) -> None:
    with watching(playwright, tmp_path, tolerance, redis=True) as watch:
        lose_relays(watch)
        lose_the_lone_relay(watch)
        lose_redis(watch)
        roll(watch)
        lose_the_rest(watch)


def test_relays_are_lost_without_redis(playwright: Playwright, tmp_path: Path, tolerance: float) -> None:
    with watching(playwright, tmp_path, tolerance, redis=False) as watch:
        lose_relays(watch)


def lose_relays(watch: Watch) -> None:
    """Workers, a host that has the shared address, and a load balancer that keeps no flow together."""
    cluster = watch.fleet
    for pid in cluster.workers(cluster.holder())[:WORKERS]:
        killed = watch.expect("a worker is killed", partial(os.kill, pid, signal.SIGKILL), 3.0)
        if killed.untouched_lost:
            watch.failures.append(f"flows of other workers lost {killed.untouched_lost} packets")
    holder = cluster.holder()
    watch.expect("the host of the shared address", partial(cluster.kill_host, holder), 4.0)
    watch.expect("it comes back", partial(cluster.revive_host, holder), 3.0)
    with cluster.spraying():
        watch.expect("packets sprayed over both relays", lambda: None, 5.0)
    cluster.wait_for_holder()


def lose_the_lone_relay(watch: Watch) -> None:
    watch.expect(
        "the lone relay's host", partial(watch.fleet.kill_host, "relay-c"), 8.0, Due(lone_up=4.0, lone_down=0.15)
    )
    watch.fleet.revive_host("relay-c")


def lose_redis(watch: Watch) -> None:
    cluster = watch.fleet
    watch.expect("Redis stops", cluster.stop_redis, REDIS_SECONDS)
    watch.expect("Redis comes back", cluster.start_redis, 3.0)

    def forget_everything() -> None:
        cluster.flush_redis()
        for name in RELAYS:
            cluster.kill_service(name)
        cluster.start_services(*RELAYS)

    watch.expect("Redis flushed, all relays restarted", forget_everything, 6.0, ANYTHING)


def roll(watch: Watch) -> None:
    """A rollout: each member leaves in order, and comes back."""
    cluster = watch.fleet

    def replace(name: str) -> None:
        if name in PAIR:
            cluster.stop_keepalived(name)
        cluster.stop_service(name)
        cluster.start_services(name)
        if name in PAIR:
            cluster.start_keepalived(name)

    for name in RELAYS:
        watch.expect(f"{name} is rolled", partial(replace, name), 5.0, USUAL if name in PAIR else ANYTHING)
    for name in ("signaling-1", "signaling-2"):
        watch.expect(f"{name} is rolled", partial(replace, name), 2.0)


def lose_the_rest(watch: Watch) -> None:
    cluster = watch.fleet
    watch.expect("keys are rotated", partial(cluster.rotate_keys, 5.0), 9.0)
    watch.expect("a backend's host", partial(cluster.kill_host, "backend-1"), 8.0, ANYTHING)
    watch.expect("the callers' path, for 3 s", partial(cluster.network.interrupt, CALLERS, 3.0), 12.0, ANYTHING)
