"""Data channels with aiortc's SCTP, over a DTLS transport without encryption that delays and drops datagrams."""

import asyncio
from collections.abc import Callable, Iterator
from math import inf
from random import Random
from typing import Any, cast

import pytest
from aiortc import RTCDataChannel, RTCDataChannelParameters, RTCSctpTransport

from antiphon_common.core import Path
from antiphon_transceiver.sctp import (
    DEFAULT_MTU,
    AssociationClosed,
    AssociationCloseReason,
    ChannelClosed,
    ChannelOpened,
    DataChannelEndpoint,
    DataChannelEvent,
    MessageReceived,
)
from antiphon_transceiver.sctp.endpoint import DTLS_OVERHEAD
from support.net.impairment import PERFECT, ImpairedLink, Impairment
from support.peers.asynchronous import run_in_thread

PATIENCE = 20.0
"""Seconds until a test gives up; aiortc repeats a lost packet after 1 to 3 s."""

LOSSY = Impairment(loss=0.05, delay=0.01)
PATH = Path.of("192.0.2.1", 1001)
TEXT = "".join(map(chr, range(32, 127))) * 690
"""64 KiB and a bit."""


class FakeDtlsTransport:
    """The interface of a DTLS transport that aiortc's SCTP uses."""

    def __init__(self, role: str, send: Callable[[bytes], None]) -> None:
        self.state = "connected"
        self._role = role
        self._send = send
        self.receiver: Any = None

    def _register_data_receiver(self, receiver: Any) -> None:
        self.receiver = receiver

    def _unregister_data_receiver(self, receiver: Any) -> None:
        self.receiver = None

    async def _send_data(self, data: bytes) -> None:
        self._send(data)


class AiortcConversation:
    """Our endpoint and aiortc's in one event loop, with an impaired path between them."""

    def __init__(self, *, we_are_client: bool, impairment: Impairment = PERFECT, seed: int = 1) -> None:
        random = Random(seed)
        self.endpoint = DataChannelEndpoint(we_are_client, random.randbytes)
        self.events: list[DataChannelEvent] = []
        self.longest = 0
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._there = ImpairedLink(impairment, random)
        self._back = ImpairedLink(impairment, random)
        self._dtls = FakeDtlsTransport("server" if we_are_client else "client", self._carry_back)
        self._tasks: set[asyncio.Task[None]] = set()
        self.sctp = RTCSctpTransport(cast(Any, self._dtls))
        self.theirs: list[RTCDataChannel] = []
        self.received: list[str | bytes] = []
        self.sctp.on("datachannel", self._on_channel)

    async def start(self) -> None:
        await self.sctp.start(RTCSctpTransport.getCapabilities(), 5000)
        self.endpoint.start(self._loop.time())
        self.settle()

    def open_theirs(self, label: str, **options: Any) -> RTCDataChannel:
        channel = RTCDataChannel(self.sctp, RTCDataChannelParameters(label=label, **options))
        self.theirs.append(channel)
        channel.on("message", self._on_message)
        return channel

    async def wait(self, until: Callable[[], bool], what: str) -> None:
        deadline = self._loop.time() + PATIENCE
        while not until():
            assert self._loop.time() < deadline, f"{what}; so far {self.events}, {len(self.received)} received"
            await asyncio.sleep(0.005)

    def settle(self) -> None:
        """Send the datagrams of our endpoint, handle its events, and set its timer."""
        while (transmit := self.endpoint.poll_transmit()) is not None:
            self.longest = max(self.longest, len(transmit.data))
            for at in self._there.arrivals(len(transmit.data), self._loop.time()):
                self._loop.call_at(at, self._arrive_there, transmit.data)
        while (event := self.endpoint.poll_event()) is not None:
            self.events.append(event)
        if self._timer is not None:
            self._timer.cancel()
        due = self.endpoint.poll_timeout()
        self._timer = None if due == inf else self._loop.call_at(due, self._timeout)

    def messages(self) -> Iterator[str | bytes]:
        return (event.data for event in self.events if isinstance(event, MessageReceived))

    def opened(self) -> list[ChannelOpened]:
        return [event for event in self.events if isinstance(event, ChannelOpened)]

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self.sctp.stop()

    def _timeout(self) -> None:
        self.endpoint.handle_timeout(self._loop.time())
        self.settle()

    def _carry_back(self, data: bytes) -> None:
        for at in self._back.arrivals(len(data), self._loop.time()):
            self._loop.call_at(at, self._arrive_back, data)

    def _arrive_back(self, data: bytes) -> None:
        self.endpoint.receive_datagram(data, PATH, self._loop.time())
        self.settle()

    def _arrive_there(self, data: bytes) -> None:
        if self._dtls.receiver is not None:
            task = asyncio.ensure_future(self._dtls.receiver._handle_data(data))  # noqa: SLF001  # as aiortc's own DTLS does
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _on_channel(self, channel: RTCDataChannel) -> None:
        self.theirs.append(channel)
        channel.on("message", self._on_message)

    def _on_message(self, message: str | bytes) -> None:
        self.received.append(message)


@pytest.mark.parametrize("we_are_client", [True, False])
@pytest.mark.parametrize("impairment", [PERFECT, LOSSY], ids=["clean", "5 % loss"])
def test_messages_of_64_kib_pass_in_both_directions(we_are_client: bool, impairment: Impairment) -> None:
    data = Random(0).randbytes(65536)

    async def talk() -> float:
        conversation = AiortcConversation(we_are_client=we_are_client, impairment=impairment)
        await conversation.start()
        began = asyncio.get_running_loop().time()
        ours = conversation.endpoint.open_channel("ours", protocol="test")
        conversation.endpoint.send(ours, TEXT)
        conversation.endpoint.send(ours, data)
        conversation.settle()
        channel = conversation.open_theirs("theirs")
        await conversation.wait(lambda: channel.readyState == "open", "the channel of aiortc")
        channel.send(TEXT)
        channel.send(data)
        await conversation.wait(lambda: len(conversation.received) == 2, "what we sent")
        await conversation.wait(lambda: len(list(conversation.messages())) == 2, "what aiortc sent")
        assert conversation.received == list(conversation.messages()) == [TEXT, data]
        assert {(event.label, event.by_peer) for event in conversation.opened()} == {("ours", False), ("theirs", True)}
        assert [channel.label for channel in conversation.theirs] == ["theirs", "ours"]
        assert conversation.longest <= DEFAULT_MTU - DTLS_OVERHEAD
        took = asyncio.get_running_loop().time() - began
        await conversation.stop()
        return took

    took = run_in_thread(talk())
    print(f"128 KiB both ways with aiortc, {impairment.loss:.0%} loss: {took:.2f} s")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("impairment", [PERFECT, LOSSY], ids=["clean", "5 % loss"])
def test_64_kib_within_two_seconds(seed: int, impairment: Impairment) -> None:
    """Both directions at once. aiortc retransmits lost packets after one to three seconds: with losses, its direction
    has no time limit."""
    data = Random(seed).randbytes(65536)

    async def talk() -> tuple[float, float]:
        conversation = AiortcConversation(we_are_client=seed % 2 == 0, impairment=impairment, seed=seed)
        await conversation.start()
        ours, theirs = conversation.endpoint.open_channel("ours"), conversation.open_theirs("theirs")
        conversation.settle()
        await conversation.wait(lambda: len(conversation.theirs) == len(conversation.opened()) == 2, "two channels")
        await conversation.wait(lambda: theirs.readyState == "open", "the channel of aiortc")
        clock = asyncio.get_running_loop().time
        began = clock()
        conversation.endpoint.send(ours, data)
        conversation.settle()
        theirs.send(data)
        await conversation.wait(lambda: conversation.received == [data], "what we sent")
        there = clock() - began
        await conversation.wait(lambda: list(conversation.messages()) == [data], "what aiortc sent")
        back = clock() - began
        assert conversation.longest <= DEFAULT_MTU - DTLS_OVERHEAD
        await conversation.stop()
        return there, back

    there, back = run_in_thread(talk())
    print(f"seed {seed}, {impairment.loss:.0%} loss: 64 KiB to aiortc in {there:.2f} s, from it in {back:.2f} s")
    assert there < 2.0
    assert back < 2.0 or impairment.loss


def test_channels_of_every_kind_carry_messages() -> None:
    async def talk() -> None:
        conversation = AiortcConversation(we_are_client=False)
        await conversation.start()
        ours = conversation.endpoint.open_channel("lossy", ordered=False, max_retransmits=3)
        conversation.endpoint.open_channel("brief", max_lifetime=0.25)
        conversation.settle()
        conversation.open_theirs("unordered", ordered=False, maxPacketLifeTime=150, protocol="p")
        await conversation.wait(lambda: len(conversation.opened()) == 3, "three channels")
        await conversation.wait(lambda: len(conversation.theirs) == 3, "three channels there")
        opened = {event.label: event for event in conversation.opened()}
        theirs = {channel.label: channel for channel in conversation.theirs}
        assert (opened["unordered"].ordered, opened["unordered"].max_lifetime) == (False, 0.15)
        assert (opened["unordered"].protocol, opened["unordered"].id % 2) == ("p", 0)
        assert (theirs["lossy"].ordered, theirs["lossy"].maxRetransmits, theirs["lossy"].id) == (False, 3, ours)
        assert theirs["brief"].maxPacketLifeTime == 250
        for message in ("", b"", "ä€😀", b"\0"):
            conversation.endpoint.send(ours, message)
            theirs["unordered"].send(message)
        conversation.settle()
        await conversation.wait(lambda: len(conversation.received) == 4, "what we sent")
        await conversation.wait(lambda: len(list(conversation.messages())) == 4, "what aiortc sent")
        assert conversation.received == list(conversation.messages()) == ["", b"", "ä€😀", b"\0"]
        await conversation.stop()

    run_in_thread(talk())


@pytest.mark.parametrize("we_close", [True, False])
def test_a_channel_closes_on_both_sides_and_its_id_is_reused(we_close: bool) -> None:
    async def talk() -> None:
        conversation = AiortcConversation(we_are_client=True)
        await conversation.start()
        first = conversation.endpoint.open_channel("first")
        conversation.endpoint.send(first, "before the end")
        conversation.settle()
        await conversation.wait(lambda: len(conversation.received) == 1, "the message")
        if we_close:
            conversation.endpoint.close_channel(first)
            conversation.settle()
        else:
            conversation.theirs[0].close()
        await conversation.wait(lambda: ChannelClosed(first) in conversation.events, "the end here")
        await conversation.wait(lambda: conversation.theirs[0].readyState == "closed", "the end there")
        again = conversation.endpoint.open_channel("again")
        conversation.endpoint.send(again, "anew")
        conversation.settle()
        assert again == first
        await conversation.wait(lambda: conversation.received[1:] == ["anew"], "a message on the same stream")
        await conversation.stop()

    run_in_thread(talk())


@pytest.mark.parametrize("we_end", [True, False])
def test_an_association_ends_on_both_sides(we_end: bool) -> None:
    async def talk() -> None:
        conversation = AiortcConversation(we_are_client=True)
        await conversation.start()
        conversation.endpoint.open_channel("only")
        conversation.settle()
        await conversation.wait(lambda: bool(conversation.opened()), "the channel")
        if we_end:
            conversation.endpoint.close(asyncio.get_running_loop().time())
            conversation.settle()
        else:
            await conversation.sctp.stop()
        await conversation.wait(lambda: conversation.endpoint.closed, "the end here")
        await conversation.wait(lambda: conversation.sctp.state == "closed", "the end there")
        (closed,) = [event for event in conversation.events if isinstance(event, AssociationClosed)]
        assert closed.reason is (
            AssociationCloseReason.LOCAL_CLOSE if we_end else AssociationCloseReason.ABORT_RECEIVED
        )
        await conversation.stop()

    run_in_thread(talk())
