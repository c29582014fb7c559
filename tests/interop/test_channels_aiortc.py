"""Calls from aiortc with audio and data channels, to running services and a backend that answers events."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from aiortc import RTCDataChannel, RTCPeerConnection, RTCSessionDescription

from antiphon.client.speech import RecordedSpeech
from support.fakes.backend_calls import serving_in_thread
from support.peers.aiortc_callers import EncodedSpeaker
from support.peers.aiortc_peer import run_in_thread
from support.processes.answering_backend import answer_events
from support.processes.services import Deployment, all_in_one

PATIENCE = 15.0
SIZE = 65_536
CALLS = "/v1/realtime/calls"


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with serving_in_thread(answer_events) as url, all_in_one(backend=f"test={url}") as deployment:
        yield deployment


class ChannelCaller:
    """A call of aiortc. `opened`, `received` and `closed` are those of the channel `oai-events`."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.peer = RTCPeerConnection()
        self.peer.addTrack(EncodedSpeaker(RecordedSpeech.shipped().packets))
        self.received: list[dict[str, Any]] = []
        self.location = ""
        self._http = http
        self.channel = self.open("oai-events")

    def open(self, label: str, **options: Any) -> RTCDataChannel:
        channel = self.peer.createDataChannel(label, **options)
        channel.on("message", lambda message: self.received.append(json.loads(message)))
        return channel

    async def connect(self) -> None:
        await self.peer.setLocalDescription(await self.peer.createOffer())
        headers = {"Content-Type": "application/sdp"}
        answer = await self._http.post(CALLS, content=self.peer.localDescription.sdp, headers=headers)
        assert answer.status_code == httpx.codes.CREATED, answer.text
        self.location = answer.headers["location"]
        await self.peer.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
        await self.wait(lambda: self.peer.connectionState == "connected", "connected")
        await self.wait(lambda: self.channel.readyState == "open", "the channel")

    def send(self, event: dict[str, Any]) -> None:
        self.channel.send(json.dumps(event, ensure_ascii=False))

    async def wait(self, until: Callable[[], bool], what: str) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not until():
            assert asyncio.get_running_loop().time() < deadline, f"{what}: {self.peer.connectionState}, {self.received}"
            await asyncio.sleep(0.005)

    async def statistics(self) -> dict[str, Any]:
        answer = await self._http.get(f"{self.location}/stats")
        statistics: dict[str, Any] = answer.json()["statistics"]
        return statistics


@asynccontextmanager
async def calling(deployment: Deployment) -> AsyncIterator[ChannelCaller]:
    async with httpx.AsyncClient(base_url=deployment.url, timeout=PATIENCE) as http:
        caller = ChannelCaller(http)
        try:
            await caller.connect()
            yield caller
        finally:
            await caller.peer.close()


def test_events_of_every_length_pass_in_both_directions(deployment: Deployment) -> None:
    events = [{"type": "test", "text": "ä" * length} for length in (0, 1, 1000, SIZE // 2, 10)]

    async def talk() -> float:
        async with calling(deployment) as caller:
            began = asyncio.get_running_loop().time()
            for event in events:
                caller.send(event)
            await caller.wait(lambda: len(caller.received) == len(events), "the answers")
            took = asyncio.get_running_loop().time() - began
            assert caller.received == [{"type": "answer", "to": event} for event in events]
            statistics = await caller.statistics()
            assert statistics["channels"]["received"] == statistics["channels"]["sent"] == len(events)
            assert statistics["received_packets"] > 0
            return took

    took = run_in_thread(talk)
    print(f"\naiortc: {SIZE // 1024} KiB and back in {took:.2f} s", end="")


def test_invalid_events_get_errors_and_other_channels_are_ignored(deployment: Deployment) -> None:
    async def talk() -> None:
        async with calling(deployment) as caller:
            other = caller.open("chat", ordered=False, maxRetransmits=1)
            await caller.wait(lambda: other.readyState == "open", "the other channel")
            other.send('{"type":"unheard"}')
            other.send(b"\0\1")
            caller.channel.send("no JSON")
            caller.channel.send(b"\xff")
            caller.channel.send(b'{"type":"bytes"}')
            caller.send({"type": "test"})
            await caller.wait(lambda: len(caller.received) == 4, "the answers")
            assert sorted(event["type"] for event in caller.received) == ["answer", "answer", "error", "error"]
            channels = (await caller.statistics())["channels"]
            assert (channels["ignored"], channels["malformed"], channels["received"]) == (2, 2, 2)

    run_in_thread(talk)


def test_a_channel_is_closed_and_another_opened(deployment: Deployment) -> None:
    async def talk() -> None:
        async with calling(deployment) as caller:
            caller.channel.close()
            await caller.wait(lambda: caller.channel.readyState == "closed", "the end of the channel")
            caller.channel = caller.open("oai-events")
            await caller.wait(lambda: caller.channel.readyState == "open", "the second channel")
            caller.send({"type": "test"})
            await caller.wait(lambda: len(caller.received) == 1, "the answer")
            assert caller.peer.connectionState == "connected"

    run_in_thread(talk)


def test_the_last_event_arrives_before_the_end_of_the_call(deployment: Deployment) -> None:
    async def talk() -> None:
        async with calling(deployment) as caller:
            caller.send({"type": "hang_up", "text": "x" * SIZE})
            await caller.wait(lambda: caller.peer.connectionState == "closed", "the end")
            assert [event["to"]["type"] for event in caller.received] == ["hang_up"]
            assert caller.channel.readyState == "closed"

    run_in_thread(talk)
