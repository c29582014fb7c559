"""Real calls that count what they say and hear, from addresses of choice.

`python -m support.peers.callers URL CALLS` makes calls that talk until standard input ends. It prints `ready` and a
JSON list of [port, ufrag of the server's side], and then, for each line it reads, its figures as JSON.
"""

import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import msgspec
import trio

from antiphon.client.call import AudioReceived, ClientCall, Closed, Connected, Event
from antiphon.client.descriptions import read_answer
from antiphon.client.speech import Speech
from antiphon.shell.client_driver import CallDriver, DrivenCall
from antiphon_common.control import IceParameters
from antiphon_transceiver.dtls import Certificate
from antiphon_transceiver.rtcp import NTP_EPOCH
from antiphon_transceiver.sctp import MessageReceived
from support.net.gaps import answer_lines

ANSWER_SECONDS = 10.0


class Figures(msgspec.Struct):
    """`sent` and `received` are of each call, the rest sums over all of them: `lost` by the sequence numbers of what
    came back, `foreign` what came and was none of the call's; `delays` in seconds since the last figures."""

    alive: int = 0
    sent: list[int] = msgspec.field(default_factory=list)
    received: list[int] = msgspec.field(default_factory=list)
    lost: int = 0
    foreign: int = 0
    delays: list[float] = msgspec.field(default_factory=list)


class Caller:
    """One call. `ice` is the server's side of ICE, once the offer is answered; `events` are what came over
    `oai-events`, with `data_channels`."""

    def __init__(
        self,
        driver: CallDriver,
        certificate: Certificate,
        speech: Speech,
        local: tuple[str, int] = ("127.0.0.1", 0),
        *,
        data_channels: bool = False,
        make: Callable[..., ClientCall] = ClientCall,
        model: str = "",
    ) -> None:
        """`make` makes the core, and is called as `ClientCall` is; `model` names the backend."""
        now = trio.current_time()
        ntp_offset = time.time() - now + NTP_EPOCH
        self.core = make(certificate, os.urandom, now, ntp_offset=ntp_offset, data_channels=data_channels)
        self._query = {"model": model} if model else {}
        self.events: list[dict[str, Any]] = []
        self.driven = DrivenCall(self.core, self._listen, local)
        self.ice = IceParameters("", "")
        self.call_id = ""
        self.closed = ""
        self.received = 0
        self.delays: list[float] = []
        self.connected = trio.Event()
        self._driver = driver
        self._speech = speech

    async def offer(self, http: httpx.AsyncClient) -> str:
        """Post the offer and return the answer; nothing is sent to the relay yet."""
        response = await http.post(
            "/v1/realtime/calls",
            params=self._query,
            content=self.core.offer(),
            headers={"Content-Type": "application/sdp"},
        )
        response.raise_for_status()
        self.call_id = response.headers["Location"].rpartition("/")[2]
        self.ice = read_answer(response.text).ice
        return response.text

    async def connect(self, http: httpx.AsyncClient, seconds: float = ANSWER_SECONDS) -> bool:
        """Make the call and begin to talk; return whether it connected within `seconds`."""
        self.accept(await self.offer(http))
        with trio.move_on_after(seconds):
            await self.connected.wait()
        return self.connected.is_set() and not self.closed

    def accept(self, answer: str) -> None:
        self.core.accept(answer, trio.current_time())
        self._driver.add(self.driven)

    def hang_up(self) -> None:
        """Say goodbye and close the socket; also of a call that was never accepted, or is over."""
        if self.driven.socket.fileno() < 0:
            return
        self.core.close(trio.current_time())
        self._driver.touch(self.driven)
        self._driver.remove(self.driven)
        self.driven.socket.close()

    def _listen(self, event: Event, now: float) -> None:
        match event:
            case Connected():
                self.driven.speak(self._speech.packets, now)
                self.connected.set()
            case AudioReceived():
                self.received += 1
                index = self._speech.index_of.get(event.payload)
                if index is not None:
                    self.delays.append(now - self.driven.said_at(index))
            case MessageReceived(data=data):
                self.events.append(json.loads(data))
            case Closed():
                self.closed = event.reason
                self.connected.set()

    def add_to(self, figures: Figures) -> None:
        ice = self.core._ice.counters  # test code may look
        figures.alive += self.connected.is_set() and not self.closed
        figures.sent.append(self.driven.spoken)
        figures.received.append(self.received)
        figures.lost += sum(source.packets_lost for source in self.core.reporter.sources.values())
        figures.foreign += self.core.failed_srtp + ice.unauthenticated + ice.stray
        figures.delays += self.delays
        self.delays.clear()


class Callers:
    """Real calls to one server; `http` is a client of it."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.driver = CallDriver()
        self._certificate = Certificate.generate()
        self._speech = Speech.shipped()

    async def call(self, *, data_channels: bool = False) -> Caller:
        """Make a call, and return it once it is heard."""
        caller = Caller(self.driver, self._certificate, self._speech, data_channels=data_channels)
        assert await caller.connect(self.http), caller.closed or "not connected"
        await self.hear(caller, 1)
        return caller

    async def offer(self) -> httpx.Response:
        """Return what an offer is answered that nobody means to follow up."""
        core = ClientCall(self._certificate, os.urandom, trio.current_time())
        headers = {"Content-Type": "application/sdp"}
        return await self.http.post("/v1/realtime/calls", content=core.offer(), headers=headers)

    async def hear(self, caller: Caller, packets: int) -> None:
        """Wait until so many more packets came."""
        due = caller.received + packets
        with trio.fail_after(ANSWER_SECONDS):
            while caller.received < due:
                assert not caller.closed, caller.closed
                await trio.sleep(0.02)


@asynccontextmanager
async def calling(url: str) -> AsyncIterator[Callers]:
    """Make calls to `url` within the block."""
    async with httpx.AsyncClient(base_url=url, timeout=ANSWER_SECONDS, trust_env=False) as http:
        callers = Callers(http)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(callers.driver.run)
            yield callers
            nursery.cancel_scope.cancel()


def _collect(callers: Iterable[Caller]) -> Figures:
    figures = Figures()
    for caller in callers:
        caller.add_to(figures)
    return figures


async def main(url: str, calls: int) -> None:
    driver, certificate, speech = CallDriver(), Certificate.generate(), Speech.shipped()
    async with httpx.AsyncClient(base_url=url, timeout=ANSWER_SECONDS) as http, trio.open_nursery() as nursery:
        nursery.start_soon(driver.run)
        callers = [Caller(driver, certificate, speech) for _ in range(calls)]
        for caller in callers:
            assert await caller.connect(http), caller.closed or "not connected"
        who = [[caller.driven.socket.getsockname()[1], caller.ice.ufrag] for caller in callers]
        print("ready", json.dumps(who), flush=True)
        await answer_lines(partial(_collect, callers))
        for caller in callers:
            caller.hang_up()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))
