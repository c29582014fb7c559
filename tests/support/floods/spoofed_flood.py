"""One flood over a battlefield: attackers with calls of their own, new callers meanwhile, and what came of it all."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import httpx
import trio

from antiphon.client.speech import Speech
from antiphon.shell.client_driver import CallDriver
from antiphon_transceiver.dtls import Certificate
from support.floods.packet_flood import Address, Flood, Sent
from support.floods.setup import Battlefield, Watch
from support.peers.callers import ANSWER_SECONDS, Caller

NEW_CALL_SECONDS = 5.0
"""How long a call may take to connect while a flood runs; a caller would wait longer."""
FLOOD_HEAD_START = 1.0
"""Seconds that attackers use an address before somebody makes a real call from it."""
MIN_NEW_CALLS = 4
SETTLE_SECONDS = 0.3
"""What was sent to strangers has been counted by then."""
TALK_SECONDS = 0.5
MAX_OFFERS = 40
MEBIBYTE = 1 << 20


speech = functools.cache(Speech.shipped)


class Telephone:
    """Makes calls in the test's own process; `hang_up` ends them all."""

    def __init__(self, http: httpx.AsyncClient, field: Battlefield, driver: CallDriver) -> None:
        self._http = http
        self._field = field
        self._driver = driver
        self._certificate = Certificate.generate()
        self._speech = speech()
        self._callers: list[Caller] = []

    def caller(self, local: Address = ("127.0.0.1", 0)) -> Caller:
        self._callers.append(Caller(self._driver, self._certificate, self._speech, local))
        return self._callers[-1]

    async def call(self, local: Address = ("127.0.0.1", 0)) -> Caller:
        """Make a call and talk for a moment; whether that went well is to be seen by what the caller received."""
        caller = self.caller(local)
        if await caller.connect(self._http, NEW_CALL_SECONDS):
            await trio.sleep(TALK_SECONDS)
        return caller

    async def offer_to(self, transceiver: int) -> tuple[Caller, str]:
        """Get an answer from the transceiver with a link port; nothing is sent to the relay yet."""
        for _ in range(MAX_OFFERS):
            caller = self.caller()
            answer = await caller.offer(self._http)
            if self._field.transceiver_of(caller.ice.ufrag) == transceiver:
                return caller, answer
            caller.hang_up()
        raise AssertionError(f"no offer reached transceiver {transceiver}")

    async def connect_to(self, transceiver: int) -> Caller:
        caller, answer = await self.offer_to(transceiver)
        caller.accept(answer)
        with trio.fail_after(ANSWER_SECONDS):
            await caller.connected.wait()
        return caller

    def hang_up(self) -> None:
        for caller in self._callers:
            caller.hang_up()


@asynccontextmanager
async def telephone(field: Battlefield) -> AsyncIterator[Telephone]:
    driver = CallDriver()
    async with (
        httpx.AsyncClient(base_url=field.deployment.url, timeout=ANSWER_SECONDS) as http,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(driver.run)
        phone = Telephone(http, field, driver)
        try:
            yield phone
        finally:
            phone.hang_up()
            nursery.cancel_scope.cancel()


class Outcome(NamedTuple):
    """What one flood did. `lost` is the share of what the live calls said that did not come back, `worst_lost` that of
    the call that lost most; `delay` is the 99th percentile of there and back, in seconds."""

    name: str
    sent: Sent
    lost: float
    worst_lost: float
    delay: float
    alive: int
    foreign: int
    watch: Watch
    stranger_bytes: int
    """Bytes that arrived where nobody calls from."""
    amplification: float
    """The most that any stranger has got so far, as a multiple of what was sent in its name."""
    new_calls: list[Caller]

    def row(self) -> str:
        """Return what stands under `HEADING`, and below it the packets dropped, by reason."""
        watch, gauges = self.watch, self.watch.gauges
        columns = (
            f"{self.name:52}",
            f"{self.sent.rate:>9,.0f}{self.sent.packets:>11,}{watch.relay_busy:>6.0%}",
            f"{self.lost:>8.2%}{self.worst_lost:>8.2%}{self.delay * 1e3:>7.0f}{len(self.new_calls):>5}",
            f"{gauges['antiphon_relay_flows']:>7.0f}{gauges['antiphon_relay_confirmed_flows']:>5.0f}",
            f"{gauges['antiphon_transceiver_paths']:>7.0f}{watch.growth / MEBIBYTE:>6.1f}{self.amplification:>7.2f}",
        )
        dropped = ", ".join(f"{name} {count:,.0f}" for name, count in watch.dropped.items())
        return f"{''.join(columns)}\n    {dropped}"


HEADING = (
    f"{'flood':52}{'packets/s':>9}{'sent':>11}{'relay':>6}{'lost':>8}{'worst':>8}{'p99 ms':>7}{'new':>5}"
    f"{'flows':>7}{'conf':>5}{'paths':>7}{'MiB':>6}{'× got':>7}"
)


async def fight(
    field: Battlefield, phone: Telephone, name: str, flood: Flood, count: int, *, real: Address | None = None
) -> Outcome:
    """Flood at half of what the relay sustains; meanwhile make new calls, one of them from the address `real`."""
    new_calls: list[Caller] = []
    outcome: list[Sent] = []
    watch = Watch(field)
    if real is not None:
        field.strangers.callers.add(real)
    before, got_before = field.live.figures(), sum(field.strangers.got.values())
    done = trio.Event()
    async with trio.open_nursery() as nursery:

        async def attack() -> None:
            rate = field.sustained / 2
            outcome.append(await trio.to_thread.run_sync(field.source.run, flood, field.port, rate, count))
            done.set()

        nursery.start_soon(attack)
        nursery.start_soon(watch.run)
        await trio.sleep(FLOOD_HEAD_START)
        if real is not None:
            new_calls.append(await phone.call(real))
        while len(new_calls) < MIN_NEW_CALLS or not done.is_set():
            caller = await phone.call()
            new_calls.append(caller)
            caller.hang_up()
        nursery.cancel_scope.cancel()
    after = field.live.figures()
    watch.stop()
    await trio.sleep(SETTLE_SECONDS)
    field.claimed.update(outcome[0].by_source)
    said = [now - was for was, now in zip(before.sent, after.sent, strict=True)]
    heard = [now - was for was, now in zip(before.received, after.received, strict=True)]
    delays = sorted(after.delays)
    return Outcome(
        name,
        outcome[0],
        1 - sum(heard) / sum(said),
        max(1 - back / there for there, back in zip(said, heard, strict=True)),
        delays[len(delays) * 99 // 100],
        after.alive,
        after.foreign - before.foreign,
        watch,
        sum(field.strangers.got.values()) - got_before,
        field.strangers.amplification(field.claimed),
        new_calls,
    )
