"""Callers that measure the gaps in what they hear: the test client's cores, and aiortc.

`python -m support.processes.fleet_callers URL ADDRESS SPEAKING LISTENING` makes that many calls from one address; those
that only listen send no audio. `python -m support.processes.fleet_callers --aiortc URL SPEAKING` makes calls of
aiortc's. Both print `ready`, and then, for each line that they read, a JSON object: each call's `Heard`, by call id.
"""

import asyncio
import json
import sys
from functools import partial

import httpx
import msgspec
import trio

from antiphon.client.call import AudioReceived, Closed, Event
from antiphon.client.speech import Speech
from antiphon.shell.client_driver import CallDriver
from antiphon_transceiver.dtls import Certificate
from support.net.gaps import Gap, answer_lines
from support.peers import aiortc_callers
from support.peers.callers import ANSWER_SECONDS, Caller

LOOK_SECONDS = 0.01
"""How often aiortc's counters are looked at."""


class Heard(msgspec.Struct):
    """What one caller heard: `lost` are the packets that its stream lacks. `closed` tells why the call is over. A
    `foreign` client is not our own, and `lost` is not known of it."""

    gap: Gap
    lost: int = 0
    closed: str = ""
    speaks: bool = True
    foreign: bool = False


class MeasuringCaller(Caller):
    """A call of the test client. It begins to speak with the connection, unless it only listens."""

    def __init__(
        self, driver: CallDriver, certificate: Certificate, speech: Speech, address: str, speaks: bool
    ) -> None:
        super().__init__(driver, certificate, speech, (address, 0))
        self.speaks = speaks
        self.gap = Gap()

    def figures(self) -> Heard:
        lost = sum(source.packets_lost for source in self.core.reporter.sources.values())
        return Heard(self.gap.take(), lost, self.closed, self.speaks)

    def _listen(self, event: Event, now: float) -> None:
        super()._listen(event, now)
        match event:
            case AudioReceived():
                self.gap.heard()
            case Closed():
                self.driven.silence()
        if not self.speaks:
            self.driven.silence()


async def call_from_cores(url: str, address: str, speaking: int, listening: int) -> None:
    driver, certificate, speech = CallDriver(), Certificate.generate(), Speech.shipped()
    async with httpx.AsyncClient(base_url=url, timeout=ANSWER_SECONDS) as http, trio.open_nursery() as nursery:
        nursery.start_soon(driver.run)
        callers = {}
        for index in range(speaking + listening):
            caller = MeasuringCaller(driver, certificate, speech, address, speaks=index < speaking)
            assert await caller.connect(http), caller.closed or "not connected"
            callers[caller.call_id] = caller
        print("ready", json.dumps(sorted(callers)), flush=True)
        await answer_lines(lambda: {call: caller.figures() for call, caller in callers.items()})
        for caller in callers.values():
            caller.hang_up()
        nursery.cancel_scope.cancel()


async def call_from_aiortc(url: str, speaking: int) -> None:
    """Look at the counters of aiortc's receivers: what they give out comes through a jitter buffer of their own."""
    speech = Speech.shipped()
    callers = [aiortc_callers.Caller(speech) for _ in range(speaking)]
    async with httpx.AsyncClient(base_url=url, timeout=ANSWER_SECONDS) as http:
        for caller in callers:
            await caller.connect(http)
    heard = {caller.call_id: Heard(Gap(), foreign=True) for caller in callers}
    print("ready", json.dumps(sorted(heard)), flush=True)
    looking = asyncio.gather(*(_look(caller, heard[caller.call_id]) for caller in callers))
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        taken = {call: msgspec.structs.replace(one, gap=one.gap.take()) for call, one in heard.items()}
        print(msgspec.json.encode(taken).decode(), flush=True)
    looking.cancel()
    for caller in callers:
        await caller.peer.close()


async def _look(caller: aiortc_callers.Caller, heard: Heard) -> None:
    before = 0
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        statistics = (await caller.peer.getStats()).values()
        received = sum(entry.packetsReceived for entry in statistics if entry.type == "inbound-rtp")
        if received > before:
            heard.gap.heard()
        before = received
        if caller.peer.connectionState in ("failed", "closed"):
            heard.closed = caller.peer.connectionState


if __name__ == "__main__":
    if sys.argv[1] == "--aiortc":
        asyncio.run(call_from_aiortc(sys.argv[2], int(sys.argv[3])))
    else:
        trio.run(partial(call_from_cores, sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
