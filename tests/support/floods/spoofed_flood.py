"""The scenario of a flood from spoofed source addresses: run it, make new calls meanwhile, and measure the outcome.

`scenario` has the scenario for floods of any other sender.
"""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import httpx
import trio

from antiphon.client.speech import RecordedSpeech
from antiphon.shell.client_driver import CallDriver
from antiphon_transceiver.dtls import Certificate
from support.floods.packet_flood import Address, Flood, FloodResult
from support.floods.setup import FloodSetup, ServiceMonitor
from support.peers.callers import ANSWER_SECONDS, CountingCaller

NEW_CALL_SECONDS = 5.0
"""Seconds within which a new call connects while a flood runs."""
FLOOD_HEAD_START = 1.0
"""Seconds for which the flood uses an address before a real call uses it too."""
MIN_NEW_CALLS = 4
SETTLE_SECONDS = 0.3
"""Seconds after which all backscatter has been counted."""
TALK_SECONDS = 0.5
MAX_OFFERS = 40
MEBIBYTE = 1 << 20


speech = functools.cache(RecordedSpeech.shipped)


class CallFactory:
    """Makes calls from the process of the test. `hang_up` ends all of them."""

    def __init__(self, http: httpx.AsyncClient, setup: FloodSetup, driver: CallDriver) -> None:
        self._http = http
        self._setup = setup
        self._driver = driver
        self._certificate = Certificate.generate()
        self._speech = speech()
        self._callers: list[CountingCaller] = []

    def caller(self, local: Address = ("127.0.0.1", 0)) -> CountingCaller:
        self._callers.append(CountingCaller(self._driver, self._certificate, self._speech, local))
        return self._callers[-1]

    async def call(self, local: Address = ("127.0.0.1", 0)) -> CountingCaller:
        """Make a call and send audio for a moment. `received` of the caller shows whether it worked."""
        caller = self.caller(local)
        if await caller.connect(self._http, NEW_CALL_SECONDS):
            await trio.sleep(TALK_SECONDS)
        return caller

    async def offer_to(self, transceiver: int) -> tuple[CountingCaller, str]:
        """Return a caller and its answer from the transceiver with this link port. Nothing is sent to the relay yet.

        Raises AssertionError when no offer reaches that transceiver.
        """
        for _ in range(MAX_OFFERS):
            caller = self.caller()
            answer = await caller.offer(self._http)
            if self._setup.transceiver_of(caller.ice.ufrag) == transceiver:
                return caller, answer
            caller.hang_up()
        raise AssertionError(f"no offer reached transceiver {transceiver}")

    async def connect_to(self, transceiver: int) -> CountingCaller:
        caller, answer = await self.offer_to(transceiver)
        caller.accept(answer)
        with trio.fail_after(ANSWER_SECONDS):
            await caller.connected.wait()
        return caller

    def hang_up(self) -> None:
        for caller in self._callers:
            caller.hang_up()


@asynccontextmanager
async def call_factory(setup: FloodSetup) -> AsyncIterator[CallFactory]:
    driver = CallDriver()
    async with (
        httpx.AsyncClient(base_url=setup.deployment.url, timeout=ANSWER_SECONDS) as http,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(driver.run)
        factory = CallFactory(http, setup, driver)
        try:
            yield factory
        finally:
            factory.hang_up()
            nursery.cancel_scope.cancel()


class FloodOutcome(NamedTuple):
    """The effect of one spoofed flood.

    `lost` is the share of the live calls' packets that did not come back, `worst_lost` that of the worst call.
    `delay` is the 99th percentile of the round-trip delay in seconds.
    """

    name: str
    sent: FloodResult
    lost: float
    worst_lost: float
    delay: float
    alive: int
    foreign: int
    monitor: ServiceMonitor
    backscatter_bytes: int
    """Bytes that arrived at spoofed source addresses."""
    amplification: float
    """Largest amplification factor of any spoofed source address so far."""
    new_calls: list[CountingCaller]

    def row(self) -> str:
        """Return the row under `HEADING`, and below it the dropped packets by reason."""
        monitor, gauges = self.monitor, self.monitor.gauges
        columns = (
            f"{self.name:52}",
            f"{self.sent.rate:>9,.0f}{self.sent.packets:>11,}{monitor.relay_busy:>6.0%}",
            f"{self.lost:>8.2%}{self.worst_lost:>8.2%}{self.delay * 1e3:>7.0f}{len(self.new_calls):>5}",
            f"{gauges['antiphon_relay_flows']:>7.0f}{gauges['antiphon_relay_confirmed_flows']:>5.0f}",
            f"{gauges['antiphon_transceiver_paths']:>7.0f}{monitor.growth / MEBIBYTE:>6.1f}{self.amplification:>7.2f}",
        )
        dropped = ", ".join(f"{name} {count:,.0f}" for name, count in monitor.dropped.items())
        return f"{''.join(columns)}\n    {dropped}"


HEADING = (
    f"{'flood':52}{'packets/s':>9}{'sent':>11}{'relay':>6}{'lost':>8}{'worst':>8}{'p99 ms':>7}{'new':>5}"
    f"{'flows':>7}{'conf':>5}{'paths':>7}{'MiB':>6}{'× got':>7}"
)


async def run_spoofed_flood(
    setup: FloodSetup, factory: CallFactory, name: str, flood: Flood, count: int, *, real: Address | None = None
) -> FloodOutcome:
    """Flood at half the rate that the relay sustains. Make new calls meanwhile, one of them from the address `real`."""
    new_calls: list[CountingCaller] = []
    outcome: list[FloodResult] = []
    monitor = ServiceMonitor(setup)
    if real is not None:
        setup.backscatter.callers.add(real)
    before, got_before = setup.live.figures(), sum(setup.backscatter.got.values())
    done = trio.Event()
    async with trio.open_nursery() as nursery:

        async def attack() -> None:
            rate = setup.sustained / 2
            outcome.append(await trio.to_thread.run_sync(setup.source.run, flood, setup.port, rate, count))
            done.set()

        nursery.start_soon(attack)
        nursery.start_soon(monitor.run)
        await trio.sleep(FLOOD_HEAD_START)
        if real is not None:
            new_calls.append(await factory.call(real))
        while len(new_calls) < MIN_NEW_CALLS or not done.is_set():
            caller = await factory.call()
            new_calls.append(caller)
            caller.hang_up()
        nursery.cancel_scope.cancel()
    after = setup.live.figures()
    monitor.stop()
    await trio.sleep(SETTLE_SECONDS)
    setup.spoofed_bytes.update(outcome[0].by_source)
    sent = [now - was for was, now in zip(before.sent, after.sent, strict=True)]
    received = [now - was for was, now in zip(before.received, after.received, strict=True)]
    delays = sorted(after.delays)
    return FloodOutcome(
        name,
        outcome[0],
        1 - sum(received) / sum(sent),
        max(1 - back / there for there, back in zip(sent, received, strict=True)),
        delays[len(delays) * 99 // 100],
        after.alive,
        after.foreign - before.foreign,
        monitor,
        sum(setup.backscatter.got.values()) - got_before,
        setup.backscatter.amplification(setup.spoofed_bytes),
        new_calls,
    )
