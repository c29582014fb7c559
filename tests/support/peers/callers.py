"""Real calls of the test client, which count the packets that they send and receive.

`python -m support.peers.callers URL CALLS` makes calls that send audio until standard input ends. It prints `ready` and
a JSON list of [port, server's ufrag]. For each line that it reads, it prints its `CallFigures` as JSON.
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

from antiphon.client.call import AudioReceived, ClientCall, ClientCallEvent, ClientClosed, ClientConnected
from antiphon.client.descriptions import read_answer
from antiphon.client.speech import RecordedSpeech
from antiphon.shell.client_driver import CallDriver, DrivenCall
from antiphon_common.control import IceParameters
from antiphon_transceiver.dtls import Certificate
from antiphon_transceiver.rtp import NTP_EPOCH
from antiphon_transceiver.sctp import MessageReceived
from support.net.gaps import answer_lines

ANSWER_SECONDS = 10.0


class CallFigures(msgspec.Struct):
    """Counters of calls. `sent` and `received` are lists with a value for each call; the others are sums.

    `lost` counts gaps in the sequence numbers received, `foreign` packets that do not belong to the call. `delays` are
    the round-trip delays in seconds since the last figures.
    """

    alive: int = 0
    sent: list[int] = msgspec.field(default_factory=list)
    received: list[int] = msgspec.field(default_factory=list)
    lost: int = 0
    foreign: int = 0
    delays: list[float] = msgspec.field(default_factory=list)


class CountingCaller:
    """One call of the test client. `connect` makes it; `hang_up` ends it.

    `ice` has the server's ICE parameters once the offer is answered. `events` are those received over `oai-events`, if
    it has `data_channels`.
    """

    def __init__(
        self,
        driver: CallDriver,
        certificate: Certificate,
        speech: RecordedSpeech,
        local: tuple[str, int] = ("127.0.0.1", 0),
        *,
        data_channels: bool = False,
        make: Callable[..., ClientCall] = ClientCall,
        model: str = "",
    ) -> None:
        """`make` constructs the core, with the arguments of `ClientCall`. `model` names the backend."""
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
        """Post the offer and return the answer. Nothing is sent to the relay yet."""
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
        """Make the call and begin to send audio. Return whether it connected within `seconds`."""
        self.accept(await self.offer(http))
        with trio.move_on_after(seconds):
            await self.connected.wait()
        return self.connected.is_set() and not self.closed

    def accept(self, answer: str) -> None:
        self.core.accept(answer, trio.current_time())
        self._driver.add(self.driven)

    def hang_up(self) -> None:
        """Send a close alert and close the socket. A call may be hung up in any state."""
        if self.driven.socket.fileno() < 0:
            return
        self.core.close(trio.current_time())
        self._driver.touch(self.driven)
        self._driver.remove(self.driven)
        self.driven.socket.close()

    def _listen(self, event: ClientCallEvent, now: float) -> None:
        match event:
            case ClientConnected():
                self.driven.start_speech(self._speech.packets, now)
                self.connected.set()
            case AudioReceived():
                self.received += 1
                index = self._speech.index_of.get(event.payload)
                if index is not None:
                    self.delays.append(now - self.driven.sent_at(index))
            case MessageReceived(data=data):
                self.events.append(json.loads(data))
            case ClientClosed():
                self.closed = event.reason
                self.connected.set()

    def add_to(self, figures: CallFigures) -> None:
        ice = self.core.agent.counters
        figures.alive += self.connected.is_set() and not self.closed
        figures.sent.append(self.driven.speech_sent)
        figures.received.append(self.received)
        figures.lost += sum(source.packets_lost for source in self.core.receiver.sources.values())
        figures.foreign += self.core.failed_srtp + ice.unauthenticated + ice.stray
        figures.delays += self.delays
        self.delays.clear()


class Callers:
    """Makes real calls to one server, over the HTTP client `http`."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.driver = CallDriver()
        self._certificate = Certificate.generate()
        self._speech = RecordedSpeech.shipped()

    async def call(self, *, data_channels: bool = False) -> CountingCaller:
        """Make a call. Return it once its audio comes back."""
        caller = CountingCaller(self.driver, self._certificate, self._speech, data_channels=data_channels)
        assert await caller.connect(self.http), caller.closed or "not connected"
        await self.wait_for_audio(caller, 1)
        return caller

    async def offer(self) -> httpx.Response:
        """Post an offer and return the response, without making the call."""
        core = ClientCall(self._certificate, os.urandom, trio.current_time())
        headers = {"Content-Type": "application/sdp"}
        return await self.http.post("/v1/realtime/calls", content=core.offer(), headers=headers)

    async def wait_for_audio(self, caller: CountingCaller, packets: int) -> None:
        """Wait until `packets` more packets have arrived."""
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


def _collect(callers: Iterable[CountingCaller]) -> CallFigures:
    figures = CallFigures()
    for caller in callers:
        caller.add_to(figures)
    return figures


async def main(url: str, calls: int) -> None:
    driver, certificate, speech = CallDriver(), Certificate.generate(), RecordedSpeech.shipped()
    async with httpx.AsyncClient(base_url=url, timeout=ANSWER_SECONDS) as http, trio.open_nursery() as nursery:
        nursery.start_soon(driver.run)
        callers = [CountingCaller(driver, certificate, speech) for _ in range(calls)]
        for caller in callers:
            assert await caller.connect(http), caller.closed or "not connected"
        addresses = [[caller.driven.socket.getsockname()[1], caller.ice.ufrag] for caller in callers]
        print("ready", json.dumps(addresses), flush=True)
        await answer_lines(partial(_collect, callers))
        for caller in callers:
            caller.hang_up()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))
