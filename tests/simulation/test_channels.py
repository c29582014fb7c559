"""Events between a call's `oai-events` channel and its backend: whole calls, or a session and its caller, in memory."""

from random import Random
from typing import Any

import msgspec
import pytest

from antiphon_common.frames import ClientEvent
from antiphon_common.json_objects import unpack
from antiphon_transceiver.backends.call import MAX_WAITING_EVENTS as WAITING_FOR_BACKEND
from antiphon_transceiver.channels import MAX_WAITING_BYTES, MAX_WAITING_EVENTS, OURS
from antiphon_transceiver.events import Terminated
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.sctp import ChannelClosed, ChannelOpened, MessageReceived
from antiphon_transceiver.sctp.dcep import PayloadProtocol
from antiphon_transceiver.sctp.packet import encode_packet
from support.floods.mutation import mutations
from support.net.impairment import PERFECT, Impairment
from support.sim.call_pair import FAR_AWAY, CallPair
from support.sim.world import SimulatedClient, World

UDP_AND_IPV6 = 48
NARROW = 1200 - UDP_AND_IPV6
"""Bytes of the longest datagram on a path with an MTU of 1200."""

SIZE = 65_536


class EventfulCall:
    """A whole call with data channels, and the events that both ends sent and received."""

    def __init__(self, seed: int = 0, impairment: Impairment = PERFECT, *, data_channels: bool = True) -> None:
        self.world = World(seed)
        self.client: SimulatedClient = self.world.call(impairment=impairment, data_channels=data_channels)
        self.run(0.01)
        backend = self.world.transceivers[0].backends[0]
        [self.backend] = backend.calls(self.client.call_id)

    def run(self, seconds: float) -> None:
        self.world.run(seconds)

    def client_sends(self, *events: dict[str, Any]) -> None:
        for event in events:
            self.client.core.send_message(msgspec.json.encode(event).decode())
        self.world.drain()

    def backend_sends(self, *events: dict[str, Any]) -> None:
        for event in events:
            while not self.backend.send_event(event):
                self.run(0.001)
        self.world.drain()

    @property
    def client_received(self) -> list[dict[str, Any]]:
        return received(self.client.events)

    @property
    def backend_received(self) -> list[dict[str, Any]]:
        return [unpack(frame.event) for frame in self.backend.events.frames if isinstance(frame, ClientEvent)]


def received(events: list[Any]) -> list[dict[str, Any]]:
    """Return the decoded events that a client received."""
    texts = [event.data for event in events if isinstance(event, MessageReceived)]
    return [msgspec.json.decode(text, type=dict[str, Any]) for text in texts]


def numbered(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"type": "test", "number": number, **fields} for number in range(count)]


def taken(pair: CallPair) -> list[dict[str, Any]]:
    """Return the events that the backend received."""
    return pair.backend.events


def connected(seed: int = 0, impairment: Impairment = FAR_AWAY) -> CallPair:
    """Return a call whose channel is open."""
    pair = CallPair(seed, impairment, data_channels=True).connect()
    opened = pair.network.run(lambda: any(isinstance(e, ChannelOpened) for e in pair.network.left.events), limit=10.0)
    assert opened
    return pair


def settle(pair: CallPair, seconds: float = 1.0) -> None:
    pair.network.run(limit=pair.network.now + seconds)


def test_events_of_both_sides_wait_for_the_channel_and_arrive_in_order() -> None:
    call = EventfulCall(impairment=FAR_AWAY)
    call.client_sends(*numbered(20, said="early"))
    call.backend_sends(*numbered(20, said="early"))
    assert not call.client.connected
    call.run(1.0)
    call.client_sends(*numbered(20))
    call.backend_sends(*numbered(20))
    call.run(0.5)
    assert call.client_received == call.backend_received == numbered(20, said="early") + numbered(20)


@pytest.mark.parametrize("loss", [0.0, 0.05])
@pytest.mark.parametrize("seed", range(5))
def test_messages_of_64_kib_pass_a_narrow_path_in_both_directions(seed: int, loss: float) -> None:
    call = EventfulCall(seed, Impairment(loss=loss, delay=0.025, mtu=NARROW))
    assert call.world.run(10.0, lambda: any(isinstance(event, ChannelOpened) for event in call.client.events))
    call.client.talk()
    began, event = call.world.now, {"type": "test", "text": "x" * SIZE}
    call.client_sends(event)
    call.backend_sends(event)
    came = call.world.run(2.0, lambda: call.client_received == call.backend_received == [event])
    print(f"seed {seed}: 64 KiB both ways at {loss:.0%} loss and 50 ms round trip: {call.world.now - began:.2f} s")
    assert came
    assert call.client.uplink.too_long == call.client.downlink.too_long == 0


def test_events_of_a_backend_beyond_the_send_buffer_are_refused() -> None:
    call = EventfulCall(impairment=Impairment(delay=0.2))
    long = numbered(6, text="x" * (MAX_WAITING_BYTES // 5), event_id="event_1")
    call.backend_sends(*long)
    call.run(0.01)
    assert [event["error"]["code"] for event in call.backend_received] == ["event_undeliverable"] * 2
    assert call.backend_received[0]["error"]["event_id"] == "event_1"
    call.run(30.0)
    assert call.client_received == long[:4]
    call.backend_sends(*numbered(3))
    call.run(2.0)
    assert call.client_received[4:] == numbered(3)


def test_queued_short_events_are_bounded_in_number() -> None:
    pair = CallPair(data_channels=True)
    for event in numbered(MAX_WAITING_EVENTS):
        pair.send_event(event)
    assert not pair.send_event({})
    pair.connect()
    settle(pair)
    assert received(pair.network.left.events) == numbered(MAX_WAITING_EVENTS)


def test_events_wait_while_the_caller_receives_none() -> None:
    pair = connected()
    pair.network.left.rewrite = lambda datagram: []
    sent = refused = 0
    for event in numbered(6000, text="x" * 1000):
        if pair.send_event(event):
            sent += 1
        else:
            refused += 1
    assert 1000 < sent < 3000
    assert sent + refused == 6000
    settle(pair)
    pair.network.left.rewrite = lambda datagram: [datagram]
    settle(pair, 60.0)
    assert [event["number"] for event in received(pair.network.left.events)] == list(range(sent))


def test_a_caller_may_close_its_channel_and_open_another() -> None:
    pair = connected()
    channels = pair.client.channels
    assert channels is not None
    channels.close_channel(pair.client.events_channel)
    settle(pair)
    assert ChannelClosed(pair.client.events_channel) in pair.network.left.events
    pair.send_event({"type": "late"})
    pair.talk(0.2)
    assert len(pair.backend_received) == 10
    pair.client.events_channel = channels.open_channel("oai-events")
    pair.client.send_message('{"type":"again"}')
    settle(pair)
    assert received(pair.network.left.events) == [{"type": "late"}]
    assert taken(pair) == [{"type": "again"}]


def test_messages_on_other_channels_are_ignored() -> None:
    pair = connected()
    channels = pair.client.channels
    assert channels is not None
    other = channels.open_channel("chat", ordered=False, max_retransmits=0)
    channels.send(other, '{"type":"hello"}')
    channels.send(other, b"\0" * 1000)
    settle(pair)
    assert other in [event.id for event in pair.network.left.events if isinstance(event, ChannelOpened)]
    assert taken(pair) == received(pair.network.left.events) == []
    assert pair.statistics["channels"]["ignored"] == 2


@pytest.mark.parametrize(
    "message",
    [
        "",
        "hello",
        "null",
        "[]",
        '"text"',
        '{"type":"x"',
        '{"type":"\\ud800"}',
        "[" * 100_000,
        b'["type"]',
        b"",
        b"\xff",
        b'{"type":"\xff"}',
    ],
)
def test_a_malformed_event_is_answered_with_one_error(message: str | bytes) -> None:
    pair = connected()
    pair.client.send_message(message)
    pair.client.send_message('{"type":"good"}')
    settle(pair, 2.0)
    [error] = received(pair.network.left.events)
    assert error["type"] == "error"
    assert error["event_id"].startswith("event_")
    assert (
        error["error"].items() >= {"type": "invalid_request_error", "code": "invalid_event", "event_id": None}.items()
    )
    assert taken(pair) == [{"type": "good"}]


def test_a_caller_receives_an_error_for_events_that_its_backend_cannot_accept() -> None:
    call = EventfulCall(impairment=FAR_AWAY)
    call.run(1.0)
    call.client_sends({"type": "test", "event_id": "mine", "number": 2**70}, {"type": "good"})
    call.run(0.5)
    [error] = call.client_received
    assert (error["error"]["code"], error["error"]["event_id"]) == ("event_refused", "mine")
    assert call.backend_received == [{"type": "good"}]


def test_a_caller_receives_an_error_for_events_beyond_those_queued_for_a_lost_backend() -> None:
    call = EventfulCall(impairment=FAR_AWAY)
    call.run(1.0)
    call.world.transceivers[0].backends[0].hang(away=30.0)
    call.run(5.0)
    assert call.client_received == []
    events = [{"type": "test", "event_id": f"mine {number}"} for number in range(WAITING_FOR_BACKEND + 3)]
    for begin in range(0, len(events), 50):
        call.client_sends(*events[begin : begin + 50])
        call.run(0.05)
    call.run(0.5)
    assert [error["error"]["code"] for error in call.client_received] == ["event_refused"] * 3
    assert [error["error"]["event_id"] for error in call.client_received] == [
        event["event_id"] for event in events[WAITING_FOR_BACKEND:]
    ]


@pytest.mark.parametrize("event", [{"type": "x", "map": {None: 1}}, {"type": "x", "text": "\1" * 250_000}])
def test_a_backend_receives_an_error_for_events_that_cannot_be_sent(event: dict[str, Any]) -> None:
    call = EventfulCall(impairment=FAR_AWAY)
    call.backend_sends(event, {"type": "good"})
    call.run(1.0)
    assert [event["error"]["code"] for event in call.backend_received] == ["event_undeliverable"]
    assert call.client_received == [{"type": "good"}]


@pytest.mark.parametrize("checksum_is_right", [True, False])
def test_malformed_packets_do_not_end_the_call(checksum_is_right: bool) -> None:
    pair = connected()
    assert pair.client.transport is not None
    endpoint, random, said = pair.client.transport.dtls, Random(1), recorded(pair)
    for packet in said:
        tag = int.from_bytes(packet[4:8], "big")
        for broken in mutations(packet[12:], random, 50):
            forged = encode_packet(OURS.port, OURS.port, tag, [broken]) if checksum_is_right else packet[:12] + broken
            endpoint.send_application_data(forged)
        pair.client.transport.flush(pair.network.now)
        settle(pair, 0.1)
    pair.talk(0.4)
    assert pair.call.ended is None
    assert len(pair.backend_received) == 20
    assert pair.call.channels is not None
    counters = pair.call.channels.endpoint.association.counters
    assert counters.malformed + counters.unexpected > 10


def recorded(pair: CallPair) -> list[bytes]:
    """Let a caller send a long event, and return its SCTP packets."""
    assert pair.client.transport is not None
    endpoint, packets = pair.client.transport.dtls, list[bytes]()
    send = endpoint.send_application_data

    def record(data: bytes) -> None:
        packets.append(data)
        send(data)

    endpoint.send_application_data = record  # type: ignore[method-assign]
    pair.client.send_message(msgspec.json.encode({"type": "long", "text": "x" * 5000}).decode())
    settle(pair)
    endpoint.send_application_data = send  # type: ignore[method-assign]
    return packets


def test_a_message_that_is_too_long_ends_the_channels_but_not_the_call() -> None:
    pair = connected()
    assert pair.client.channels is not None
    text = b"x" * (OURS.max_message_size + 1)
    pair.client.channels.association.send(pair.client.events_channel, PayloadProtocol.STRING, text)
    settle(pair, 3.0)
    assert pair.statistics["channels"]["ended"].startswith("the peer broke the protocol")
    assert not pair.send_event({"type": "late"})
    pair.talk(0.4)
    assert len(pair.backend_received) == 20


def test_events_arrive_after_an_outage() -> None:
    pair = connected()
    stations = (pair.network.left, pair.network.right)
    for station in stations:
        station.rewrite = lambda datagram: []
    settle(pair, 5.5)
    assert pair.call.state == "disconnected"
    pair.send_event({"type": "from the backend"})
    pair.client.send_message('{"type":"from the client"}')
    settle(pair, 5.0)
    for station in stations:
        station.rewrite = lambda datagram: [datagram]
    settle(pair, 8.0)
    assert pair.call.state == "connected"
    assert received(pair.network.left.events) == [{"type": "from the backend"}]
    assert taken(pair) == [{"type": "from the client"}]


def test_a_call_without_data_channels_drops_events_and_counts_them() -> None:
    pair = CallPair().connect()
    pair.send_event({"type": "test"})
    assert pair.statistics["dropped"]["events_unheard"] == 1
    assert pair.statistics["channels"] is None


@pytest.mark.parametrize("seed", range(5))
def test_the_last_event_arrives_before_the_call_ends(seed: int) -> None:
    pair = connected(seed, Impairment(loss=0.3, delay=0.025))
    for event in numbered(5, text="x" * 3000):
        pair.send_event(event)
    began = pair.network.now
    pair.hang_up()
    assert pair.network.run(lambda: pair.call.ended is not None, limit=began + 6.0), f"seed {seed}"
    assert pair.call.ended == Terminated(EndReason.BACKEND_ENDED, "the backend hung up")
    assert received(pair.network.left.events) == numbered(5, text="x" * 3000), f"seed {seed}"


def test_a_call_with_nothing_to_deliver_ends_at_once() -> None:
    pair = connected()
    settle(pair)
    pair.hang_up()
    assert pair.call.ended is not None


def test_a_burst_of_short_events_in_one_datagram_reaches_the_backend() -> None:
    """Fifty events in one datagram, after which the caller sends nothing."""
    pair = connected()
    settle(pair)
    for event in numbered(50):
        pair.client.send_message(msgspec.json.encode(event).decode())
    pair.network.drain()
    settle(pair, 0.02)
    pair.network.left.rewrite = lambda datagram: []
    settle(pair, 0.1)
    assert taken(pair) == numbered(50)
