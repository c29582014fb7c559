"""Callers that measure the gaps in the audio that they receive: the test client's cores, and aiortc.

`python -m support.processes.fleet_callers URL ADDRESS SPEAKING LISTENING` makes calls from one address. Callers that
only listen send no audio. `python -m support.processes.fleet_callers --aiortc URL SPEAKING` makes calls with aiortc.
Both print `ready`. For each line that they read, they print a JSON object: the `ReceivedAudio` of each call, by id.
"""

import asyncio
import json
import sys
from functools import partial

import httpx
import msgspec
import trio

from antiphon.client.call import AudioReceived, ClientCallEvent, ClientClosed
from antiphon.client.speech import RecordedSpeech
from antiphon.shell.client_driver import CallDriver
from antiphon_transceiver.dtls import Certificate
from support.net.gaps import Gap, answer_lines
from support.peers import aiortc_callers
from support.peers.callers import ANSWER_SECONDS, CountingCaller

LOOK_SECONDS = 0.01
"""Seconds between two readings of aiortc's counters."""


class ReceivedAudio(msgspec.Struct):
    """The audio that one caller received. `lost` counts the packets missing from its stream.

    `closed` is the reason for the end of the call. A `foreign` client is not our own, and has no `lost`.
    """

    gap: Gap
    lost: int = 0
    closed: str = ""
    speaks: bool = True
    foreign: bool = False


class MeasuringCaller(CountingCaller):
    """A call of the test client. It sends audio once connected, unless it only listens."""

    def __init__(
        self, driver: CallDriver, certificate: Certificate, speech: RecordedSpeech, address: str, speaks: bool
    ) -> None:
        super().__init__(driver, certificate, speech, (address, 0))
        self.speaks = speaks
        self.gap = Gap()

    def figures(self) -> ReceivedAudio:
        lost = sum(source.packets_lost for source in self.core.receiver.sources.values())
        return ReceivedAudio(self.gap.take(), lost, self.closed, self.speaks)

    def _listen(self, event: ClientCallEvent, now: float) -> None:
        super()._listen(event, now)
        match event:
            case AudioReceived():
                self.gap.count_packet()
            case ClientClosed():
                self.driven.stop_speech()
        if not self.speaks:
            self.driven.stop_speech()


async def call_from_cores(url: str, address: str, speaking: int, listening: int) -> None:
    driver, certificate, speech = CallDriver(), Certificate.generate(), RecordedSpeech.shipped()
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
    """Read the counters of aiortc's receivers: their audio comes out of a jitter buffer, which hides gaps."""
    speech = RecordedSpeech.shipped()
    callers = [aiortc_callers.AiortcCaller(speech) for _ in range(speaking)]
    async with httpx.AsyncClient(base_url=url, timeout=ANSWER_SECONDS) as http:
        for caller in callers:
            await caller.connect(http)
    received = {caller.call_id: ReceivedAudio(Gap(), foreign=True) for caller in callers}
    print("ready", json.dumps(sorted(received)), flush=True)
    looking = asyncio.gather(*(_look(caller, received[caller.call_id]) for caller in callers))
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        taken = {call: msgspec.structs.replace(one, gap=one.gap.take()) for call, one in received.items()}
        print(msgspec.json.encode(taken).decode(), flush=True)
    looking.cancel()
    for caller in callers:
        await caller.peer.close()


async def _look(caller: aiortc_callers.AiortcCaller, audio: ReceivedAudio) -> None:
    before = 0
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        statistics = (await caller.peer.getStats()).values()
        received = sum(entry.packetsReceived for entry in statistics if entry.type == "inbound-rtp")
        if received > before:
            audio.gap.count_packet()
        before = received
        if caller.peer.connectionState in ("failed", "closed"):
            audio.closed = caller.peer.connectionState


if __name__ == "__main__":
    if sys.argv[1] == "--aiortc":
        asyncio.run(call_from_aiortc(sys.argv[2], int(sys.argv[3])))
    else:
        trio.run(partial(call_from_cores, sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
