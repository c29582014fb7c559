"""A caller that floods its own call: `python -m support.floods.flooding_caller URL FLOOD MODEL`.

It connects and prints `ready`, its port and the server's ufrag. A line `RATE SECONDS` starts the flood, in bits per
second. Afterwards the caller prints a `FloodReport` as JSON, hangs up and exits.
"""

import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import trio

from antiphon.client.speech import RecordedSpeech
from antiphon.shell.client_driver import CallDriver
from antiphon_transceiver.dtls import Certificate
from support.floods.caller_floods import FLOODS, dtls_fragments, dtls_refused
from support.floods.flooding_call import FloodingCall, HalfOpenCall
from support.peers.callers import ANSWER_SECONDS, CountingCaller

HALF_OPEN = "dtls-handshake"
"""The flood of calls whose DTLS handshake never completes."""

LEAD_SECONDS = 1.0
"""Seconds of an ordinary call before the flood: the server then has data to acknowledge, request and retransmit."""
SETTLE_SECONDS = 0.3
FRAGMENTS, REFUSED = 150, 30
"""Datagrams that one half-open call sends before the server refuses it, and after."""


class FloodReport(msgspec.Struct):
    """What a flooding caller sent. `cpu` is its own processor time in seconds, `calls` the number of its calls."""

    datagrams: int = 0
    bytes: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    calls: int = 1
    closed: str = ""
    """Why its call ended, if it did."""
    dropped: dict[str, int] = {}
    """Datagrams of the call that the transceiver dropped, by reason."""
    throttled: int = 0
    events: int = 0
    """Events that reached the transceiver over the events channel."""
    channels_ended: str = ""
    """Why its data channels ended, if they did."""
    feedback: int = 0
    """Packets that the transceiver counts as received because transport-wide feedback reported them."""
    nacks: int = 0
    """Packets that NACKs requested and the transceiver looked up."""


class FloodingCaller:
    """Makes one call and sends a flood at a constant rate. Call `connect`, then `flood`, then `hang_up`."""

    def __init__(self, http: httpx.AsyncClient, driver: CallDriver, model: str) -> None:
        self.report = FloodReport()
        self._http = http
        self._driver = driver
        self._certificate = Certificate.generate()
        self._speech = RecordedSpeech.shipped()
        self._model = model
        self._half_open: list[CountingCaller] = []

    def caller(self, make: type[FloodingCall]) -> CountingCaller:
        return CountingCaller(
            self._driver, self._certificate, self._speech, data_channels=True, make=make, model=self._model
        )

    async def connect(self) -> CountingCaller:
        """Make a call that sends audio and has an open data channel."""
        caller = self.caller(FloodingCall)
        assert await caller.connect(self._http), caller.closed or "not connected"
        await trio.sleep(LEAD_SECONDS)
        return caller

    async def flood(self, caller: CountingCaller, name: str, rate: float, seconds: float) -> None:
        """Send the datagrams of a flood as the connected `caller`."""
        call = caller.core
        assert isinstance(call, FloodingCall)
        call.take_over()
        with trio.move_on_after(seconds):
            await self._send(caller, FLOODS[name](call), rate)
            await trio.sleep_forever()  # the call is over

    async def add_call_statistics(self, caller: CountingCaller) -> None:
        """Add the transceiver's statistics of the call to the report."""
        answer = (await self._http.get(f"/v1/realtime/calls/{caller.call_id}/stats")).json()
        report, statistics = self.report, answer.get("statistics") or {}
        report.closed = report.closed or answer.get("reason") or ""
        report.dropped = {name: value for name, value in statistics.get("dropped", {}).items() if value}
        report.throttled = statistics.get("throttled", 0)
        channels, nack = statistics.get("channels") or {}, statistics.get("nack") or {}
        report.events, report.channels_ended = channels.get("received", 0), channels.get("ended") or ""
        report.nacks = nack.get("resent", 0) + nack.get("refused", 0)
        report.feedback = (statistics.get("sent_feedback") or {}).get("received", 0)

    async def flood_handshakes(self, rate: float, seconds: float) -> None:
        """Make half-open calls one after the other. Each sends fragments, then messages that the server must refuse."""
        self.report.calls = 0
        with trio.move_on_after(seconds):
            while True:
                self.report.calls += 1
                caller = self.caller(HalfOpenCall)
                caller.accept(await caller.offer(self._http))
                self._half_open.append(caller)
                while not (isinstance(caller.core, HalfOpenCall) and caller.core.checked):
                    await trio.sleep(0.005)
                await self._send(caller, dtls_fragments(), rate, FRAGMENTS)
                await self._send(caller, dtls_refused(), rate, REFUSED)

    async def hang_up(self) -> None:
        """End the half-open calls over HTTP: without keys they cannot send an authenticated close alert."""
        for caller in self._half_open:
            self._driver.remove(caller.driven)
            await self._http.delete(f"/v1/realtime/calls/{caller.call_id}")

    async def _send(self, caller: CountingCaller, datagrams: Iterator[bytes], rate: float, most: int = 1 << 30) -> None:
        """Send at most `most` datagrams, until the call ends. Late datagrams are sent at once, to keep the rate."""
        due = trio.current_time()
        call: Any = caller.core
        for _, datagram in zip(range(most), datagrams, strict=False):
            if caller.closed:
                self.report.closed = caller.closed
                return
            call.send(datagram)
            self._driver.touch(caller.driven)
            self.report.datagrams += 1
            self.report.bytes += len(datagram)
            due = max(due + 8 * len(datagram) / rate, trio.current_time() - 0.1)
            await trio.sleep_until(due)


@asynccontextmanager
async def _driving() -> AsyncIterator[CallDriver]:
    driver = CallDriver()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.run)
        yield driver
        nursery.cancel_scope.cancel()


async def main(url: str, name: str, model: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=ANSWER_SECONDS, trust_env=False) as http, _driving() as driver:
        flooder = FloodingCaller(http, driver, model)
        caller = None if name == HALF_OPEN else await flooder.connect()
        port = 0 if caller is None else caller.driven.socket.getsockname()[1]
        ufrag = "" if caller is None else caller.ice.ufrag
        print("ready", msgspec.json.encode([port, ufrag]).decode(), flush=True)
        rate, seconds = map(float, (await trio.to_thread.run_sync(sys.stdin.readline)).split())
        began, cpu = time.monotonic(), time.process_time()
        if caller is None:
            await flooder.flood_handshakes(rate, seconds)
        else:
            await flooder.flood(caller, name, rate, seconds)
        report = flooder.report
        report.seconds, report.cpu = time.monotonic() - began, time.process_time() - cpu
        if caller is not None:
            await flooder.add_call_statistics(caller)
        print(msgspec.json.encode(report).decode(), flush=True)
        if caller is not None:
            caller.hang_up()
        await flooder.hang_up()
        await trio.sleep(SETTLE_SECONDS)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
