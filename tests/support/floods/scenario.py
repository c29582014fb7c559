"""A flood scenario of any sender: a quiet period, then the flood, and the quality of the live calls in both.

`spoofed_flood` has the scenario for floods from spoofed source addresses.
"""

import re
from collections.abc import Awaitable, Callable
from statistics import median
from typing import NamedTuple

import trio

from support.floods.setup import LIVE_CALLS, FloodSetup, ServiceMonitor, cpu_seconds
from support.floods.spoofed_flood import MIN_NEW_CALLS, CallFactory
from support.peers.callers import CallFigures, CountingCaller
from support.processes.services import read_metrics

QUIET_SECONDS = 4.0
SPACING = 0.5
"""Seconds between two new calls: few enough that they are no flood themselves."""

PACKETS = 50
"""Packets of one call in a second."""

EMPTY_SECONDS = 15.0
"""Seconds within which the tables drop the calls of a scenario."""

COUNTED = re.compile(
    r"throttled|disowned|over_|shed|bad_|unknown_|late_|refused|lost|evicted|reason=\"over_budget\"|failed|overflowed"
)
"""Metrics whose growth a scenario reports."""

FORGOTTEN = ("antiphon_calls", "antiphon_transceiver_paths")


class FloodSender(NamedTuple):
    """CallFigures of the flood's sender: its rate in bits per second, its share of one core, and remarks."""

    rate: float
    busy: float
    remarks: str = ""


class LiveCallQuality(NamedTuple):
    """Quality of the ten live calls over an interval: shares of packets lost, and round-trip delays in seconds."""

    lost: float
    worst_lost: float
    p50: float
    p99: float
    longest: float
    """Median over all seconds of the longest delay in each. One stall of the machine does not change it."""

    @classmethod
    def between(cls, before: CallFigures, after: CallFigures) -> "LiveCallQuality":
        sent = [now - was for was, now in zip(before.sent, after.sent, strict=True)]
        received = [now - was for was, now in zip(before.received, after.received, strict=True)]
        delays = sorted(after.delays)
        seconds = [max(after.delays[at : at + PACKETS]) for at in range(0, len(delays), PACKETS)]
        shares = [1 - back / there for there, back in zip(sent, received, strict=True)]
        share = 1 - sum(received) / sum(sent)
        return cls(share, max(shares), delays[len(delays) // 2], delays[len(delays) * 99 // 100], median(seconds))


class Impact(NamedTuple):
    """The effect of one flood on the live calls, new calls, processes and tables. `row` prints it."""

    name: str
    sender: FloodSender
    quiet: LiveCallQuality
    flooded: LiveCallQuality
    alive: int
    busy: dict[str, float]
    """Share of a core that each service took."""
    growth: int
    counted: dict[str, float]
    left: dict[str, float]
    """Growth of the table gauges over the flood, after the tables had time to drop its entries."""
    new_calls: list[CountingCaller]

    @property
    def delay_growth(self) -> float:
        """Seconds by which the longest delays exceed those of the quiet period."""
        return self.flooded.longest - self.quiet.longest

    def grown(self, name: str) -> float:
        """Return the growth of all metrics whose names contain `name`."""
        return sum(value for metric, value in self.counted.items() if name in metric)

    def row(self) -> str:
        """Return the row under `SCENARIO_HEADING`, and below it the processes and the metrics that grew."""
        sender, quiet, flooded = self.sender, self.quiet, self.flooded
        columns = (
            f"{self.name:34}{sender.rate / 1e6:>7.2f}{sender.busy:>7.0%}",
            f"{quiet.lost:>8.2%}{flooded.lost:>8.2%}{flooded.worst_lost:>8.2%}",
            f"{quiet.p50 * 1e3:>7.0f}{flooded.p50 * 1e3:>7.0f}{quiet.p99 * 1e3:>7.0f}{flooded.p99 * 1e3:>7.0f}",
            f"{quiet.longest * 1e3:>7.0f}{flooded.longest * 1e3:>7.0f}",
            f"{len(self.new_calls):>5}{self.growth / (1 << 20):>6.1f}",
        )
        busy = ", ".join(f"{name} {share:.0%}" for name, share in self.busy.items())
        counted = ", ".join(f"{name} {count:,.0f}" for name, count in self.counted.items())
        return f"{''.join(columns)}\n    busy: {busy}\n    {sender.remarks}\n    {counted}"


SCENARIO_HEADING = (
    f"{'flood':34}{'Mbit/s':>7}{'sender':>7}{'quiet':>8}{'lost':>8}{'worst':>8}"
    f"{'p50 q':>7}{'p50':>7}{'p99 q':>7}{'p99':>7}{'max q':>7}{'max':>7}{'new':>5}{'MiB':>6}"
)


async def run_scenario(
    setup: FloodSetup, factory: CallFactory, name: str, flood: Callable[[], Awaitable[FloodSender]]
) -> Impact:
    """Measure the live calls before and during `flood` while new calls are made. Then wait until tables are empty."""
    await _until_forgotten(setup, dict.fromkeys(FORGOTTEN, 0.0) | {"antiphon_calls": LIVE_CALLS})
    start = setup.live.figures()
    await trio.sleep(QUIET_SECONDS)
    before, held = setup.live.figures(), _gauges(setup)
    monitor, counters, usage = ServiceMonitor(setup), _counters(setup), _usage(setup)
    began = trio.current_time()
    sender: list[FloodSender] = []
    new_calls: list[CountingCaller] = []
    done = trio.Event()

    async def send() -> None:
        sender.append(await flood())
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.sleep(SPACING)
        while len(new_calls) < MIN_NEW_CALLS or not done.is_set():
            new_calls.append(await factory.call())
            new_calls[-1].hang_up()
            await trio.sleep(SPACING)
    after, seconds = setup.live.figures(), trio.current_time() - began
    busy = {name: (now - usage[name]) / seconds for name, now in _usage(setup).items()}
    monitor.stop()
    factory.hang_up()
    left = await _until_forgotten(setup, held)
    grown = {name: value - counters.get(name, 0.0) for name, value in _counters(setup).items()}
    return Impact(
        name,
        sender[0],
        LiveCallQuality.between(start, before),
        LiveCallQuality.between(before, after),
        after.alive,
        busy,
        monitor.growth,
        {name: value for name, value in grown.items() if value},
        left,
        new_calls,
    )


async def _until_forgotten(setup: FloodSetup, held: dict[str, float]) -> dict[str, float]:
    """Wait until the tables hold no more than `held`. Return the excess when the wait is over."""
    left: dict[str, float] = {}
    with trio.move_on_after(EMPTY_SECONDS):
        while any((left := _excess(setup, held)).values()):
            await trio.sleep(0.25)
    return left


def _excess(setup: FloodSetup, held: dict[str, float]) -> dict[str, float]:
    return {name: max(0.0, value - held[name]) for name, value in _gauges(setup).items() if held[name]}


def _gauges(setup: FloodSetup) -> dict[str, float]:
    everywhere = [read_metrics(address) for address in setup.deployment.transceiver_admins]
    return {name: sum(metrics[name] for metrics in everywhere) for name in FORGOTTEN}


def _counters(setup: FloodSetup) -> dict[str, float]:
    """Return the counted metrics, summed over services, without the prefix and suffix of their names."""
    deployment = setup.deployment
    counters: dict[str, float] = {}
    for address in (deployment.relay_admin, deployment.signaling_admin, *deployment.transceiver_admins):
        for metric, value in read_metrics(address).items():
            if COUNTED.search(metric) and "_total" in metric:
                name = metric.removeprefix("antiphon_").replace("_total", "")
                counters[name] = counters.get(name, 0.0) + value
    return counters


def _usage(setup: FloodSetup) -> dict[str, float]:
    return {name: cpu_seconds(service) for name, service in setup.deployment.services.items()}
