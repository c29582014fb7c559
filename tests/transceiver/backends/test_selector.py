"""Calls that change connections, without a network: which connection takes them, and what each side receives."""

from math import inf
from typing import Any

import msgspec
import pytest

from antiphon_common import frames
from antiphon_common.frames import CREDIT_MS
from antiphon_common.json_objects import EMPTY, pack, unpack
from antiphon_transceiver.backends import BACKEND_LOST, BackendCall, BackendConnection, BackendSelector, EventRefused
from antiphon_transceiver.backends.call import (
    MAX_WAITING_EVENT_BYTES,
    RESUME_SECONDS,
    BackendCallState,
    BackendCounters,
    InboundFrame,
)
from antiphon_transceiver.backends.selector import LOOK_INTERVAL, MAX_TRIES

FRAME = bytes(960)
"""20 ms of silence at 24 kHz."""


class SelectorBench:
    """A selector whose connections the test controls."""

    def __init__(self, *slots: int) -> None:
        self.now = 100.0
        self.selector = BackendSelector("pcm16/24000", BackendCounters())
        self.delivered: list[InboundFrame] = []
        for count in slots:
            self.connect(count)

    def connect(self, slots: int = 4, formats: tuple[str, ...] = ("pcm16/24000",)) -> BackendConnection:
        """Connect to another address, whose backend sends a hello."""
        connection = BackendConnection(self.selector.counters, self.now)
        self.selector.connections.append(connection)
        self.receive(connection, frames.BackendHello(frames.VERSION, slots, formats))
        sent(connection)
        self.selector.handle_timeout(self.now)
        return connection

    def open(self) -> BackendCall:
        return self.selector.open("rtc_1", "acme", {"model": "echo"}, {"user": "7"}, self.now)

    def accepted(self) -> tuple[BackendCall, BackendConnection]:
        """Open a call, have it accepted, and return it with its connection."""
        call = self.open()
        connection = self.find(call)
        self.receive(connection, frames.Accepted(call.number))
        sent(connection)
        self.delivered.clear()
        return call, connection

    def find(self, call: BackendCall) -> BackendConnection:
        """Return the connection to which a call was just sent."""
        [connection] = [connection for connection in self.selector.connections if connection.pending]
        return connection

    def receive(self, connection: BackendConnection, *batch: frames.Frame) -> None:
        connection.receive_message(msgspec.msgpack.encode(batch), self.now)
        self.selector.collect(connection, self.now)
        self._deliver()

    def connection_lost(self, connection: BackendConnection) -> None:
        self.selector.connection_lost(connection, self.now)
        self._deliver()

    def pass_time(self, seconds: float) -> None:
        """Let time pass; backends answer every ping, and send nothing else."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + LOOK_INTERVAL)
            for connection in self.selector.connections:
                connection.handle_timeout(self.now)
                self.receive(connection, frames.Pong(0))
            self.selector.handle_timeout(self.now)
            self._deliver()

    def _deliver(self) -> None:
        while (delivery := self.selector.poll_event()) is not None:
            self.delivered.append(delivery.frame)


def sent(connection: BackendConnection) -> list[Any]:
    found: list[Any] = []
    while (message := connection.poll_transmit()) is not None:
        found += frames.decode(message)
    return found


def started(connection: BackendConnection) -> list[frames.Started]:
    return [frame for frame in sent(connection) if isinstance(frame, frames.Started)]


def positions(connection: BackendConnection) -> list[int]:
    return [frame.position for frame in sent(connection) if isinstance(frame, frames.Audio)]


def test_a_call_of_a_lost_connection_resumes_on_another_with_the_audio_of_the_gap_in_order() -> None:
    bench = SelectorBench(4)
    call, first = bench.accepted()
    second = bench.connect()
    for position in range(0, 48000, 480):
        call.send_audio(FRAME, position)
    assert len(positions(first)) == 100
    bench.receive(first, frames.Pong(0))
    for position in range(48000, 55200, 480):  # the backend sends nothing any more
        call.send_audio(FRAME, position)
        sent(first)
    for position in range(55200, 57600, 480):  # and what is sent no longer goes out
        call.send_audio(FRAME, position)
    bench.connection_lost(first)
    for position in range(57600, 72000, 480):
        call.send_audio(FRAME, position)
    assert sent(second) == [
        frames.Started(1, "rtc_1", "acme", "pcm16/24000", pack({"model": "echo"}), pack({"user": "7"}), resumed_ms=2000)
    ]
    bench.receive(second, frames.Accepted(call.number))
    assert positions(second) == list(range(48000, 72000, 480))
    assert bench.delivered == [], "the session is not notified"
    assert bench.selector.counters.calls_resumed == 1


def test_a_call_resumes_at_the_position_of_a_lost_packet() -> None:
    bench = SelectorBench()
    bench.selector.preferred_format = "opus"
    bench.connect(formats=("opus",))
    call, first = bench.accepted()
    second = bench.connect(formats=("opus",))
    call.send_audio(b"", 48_000, frames.FrameStatus.CONCEALED)
    assert positions(first) == [48_000]
    bench.receive(first, frames.Pong(0))
    bench.connection_lost(first)
    assert [frame.resumed_ms for frame in started(second)] == [1000]


def test_the_latest_three_seconds_of_audio_are_kept_during_a_gap() -> None:
    bench = SelectorBench(4)
    call, connection = bench.accepted()
    for position in range(0, 5 * 24000, 480):
        call.send_audio(FRAME, position)
        sent(connection)
    bench.connection_lost(connection)
    again = bench.connect()
    assert [frame.resumed_ms for frame in started(again)] == [2000]
    bench.receive(again, frames.Accepted(call.number))
    assert positions(again) == list(range(2 * 24000, 5 * 24000, 480))
    assert bench.selector.counters.audio_dropped == 100


def test_the_credit_of_a_resumed_call_is_reduced_by_the_audio_not_yet_played() -> None:
    bench = SelectorBench(4)
    call, first = bench.accepted()
    bench.receive(first, frames.ResponseStarted(call.number, 1), *[frames.Audio(call.number, FRAME, response=1)] * 150)
    second = bench.connect()
    bench.connection_lost(first)
    call.grant(1000)
    sent(second)
    bench.receive(second, frames.Accepted(call.number))
    assert sent(second) == [frames.Credit(call.number, CREDIT_MS - 2000)]
    call.grant(2000)
    assert sent(second) == [frames.Credit(call.number, 2000)]
    bench.receive(second, frames.ResponseStarted(call.number, 1), *[frames.Audio(call.number, FRAME, response=1)] * 200)
    assert not any(isinstance(frame, frames.BadFrame) for frame in bench.delivered)
    bench.receive(second, frames.Audio(call.number, FRAME, response=1))
    assert isinstance(bench.delivered[-1], frames.BadFrame)


def test_response_ids_start_at_one_per_connection_and_increase_for_the_session() -> None:
    bench = SelectorBench(4)
    call, first = bench.accepted()
    bench.receive(first, frames.ResponseStarted(call.number, 3), frames.Audio(call.number, FRAME, response=3))
    second = bench.connect()
    bench.connection_lost(first)
    assert bench.delivered[-1] == frames.ResponseEnded(1, 3), "nothing more comes of it"
    bench.receive(second, frames.Accepted(1))
    sent(second)
    bench.delivered.clear()
    bench.receive(second, frames.ResponseStarted(1, 1), frames.Audio(1, FRAME, response=1), frames.ResponseEnded(1, 1))
    bench.receive(second, frames.Clear(1, 1))
    assert [frame.response for frame in bench.delivered if not isinstance(frame, frames.Ended)] == [4] * 4  # type: ignore[union-attr]
    call.interrupted(4, 20)
    call.interrupted(2, 500)
    assert sent(second) == [frames.Interrupted(1, 1, 20)], "the other responses belong to the old backend"


def test_a_clear_of_response_0_applies_to_earlier_audio() -> None:
    bench = SelectorBench(4)
    call, first = bench.accepted()
    bench.receive(first, frames.ResponseStarted(call.number, 1), frames.Audio(call.number, FRAME, response=1))
    second = bench.connect()
    bench.connection_lost(first)
    bench.receive(second, frames.Accepted(1), frames.Clear(1, 0))
    assert bench.delivered[-1] == frames.Clear(1, 1)
    sent(second)
    call.interrupted(1, 10)
    assert sent(second) == [frames.Interrupted(1, 0, 10)]


def test_a_call_not_yet_accepted_starts_anew_on_another_connection() -> None:
    bench = SelectorBench(4)
    call = bench.open()
    call.send_audio(FRAME, 0)
    [first] = bench.selector.connections
    second = bench.connect()
    bench.connection_lost(first)
    assert [frame.resumed_ms for frame in started(second)] == [0]
    bench.receive(second, frames.Accepted(call.number))
    assert bench.delivered == [frames.Accepted(call.number)]
    assert positions(second) == [0]


def test_a_call_that_was_hanging_up_is_not_resumed() -> None:
    bench = SelectorBench(4)
    call, first = bench.accepted()
    second = bench.connect()
    bench.receive(first, frames.HangUp(call.number))
    bench.delivered.clear()
    bench.connection_lost(first)
    assert (bench.delivered, started(second), call.state) == ([], [], BackendCallState.OVER)


def test_a_call_waits_for_a_slot_and_ends_if_none_becomes_free() -> None:
    bench = SelectorBench(1)
    call, first = bench.accepted()
    bench.connection_lost(first)
    bench.pass_time(RESUME_SECONDS - 1)
    assert bench.delivered == []
    bench.connect(formats=("opus",))
    bench.pass_time(2)
    assert bench.delivered == [frames.Ended(call.number, BACKEND_LOST)]
    assert bench.selector.poll_timeout() == inf
    late = bench.connect()
    call.send_audio(FRAME, 0)
    call.end("hangup")
    assert sent(late) == []


def test_waiting_calls_search_for_a_slot_together() -> None:
    """A thousand calls of a lost backend must not each search all connections."""
    looks = 0

    class CountedConnection(BackendConnection):
        def free_slots(self, now: float) -> int:
            nonlocal looks
            looks += 1
            return super().free_slots(now)

    bench = SelectorBench(1000)
    [first] = bench.selector.connections
    for _ in range(1000):
        bench.open()
    bench.selector.connections += [CountedConnection(bench.selector.counters, bench.now) for _ in range(20)]
    for connection in bench.selector.connections[1:]:
        bench.receive(connection, frames.BackendHello(frames.VERSION, 0, ("pcm16/24000",)))
    bench.receive(first, *[frames.Accepted(number) for number in range(1, 1001)])
    bench.connection_lost(first)
    looks = 0
    bench.selector.handle_timeout(bench.now)
    assert looks == 20
    last = bench.selector.connections[-1]
    bench.receive(last, frames.BackendHello(frames.VERSION, 300, ("pcm16/24000",)))
    bench.selector.handle_timeout(bench.now)
    assert len(started(last)) == 300


def test_a_call_without_tries_left_does_not_prevent_another_from_resuming() -> None:
    bench = SelectorBench(4)
    [connection] = bench.selector.connections
    first, second = bench.open(), bench.open()
    bench.receive(connection, frames.Accepted(first.number), frames.Accepted(second.number))
    bench.connection_lost(connection)
    first.tries = MAX_TRIES
    bench.connect()
    assert second.state is BackendCallState.STARTING
    bench.pass_time(LOOK_INTERVAL)
    assert bench.delivered[-1] == frames.Ended(1, BACKEND_LOST)


def test_a_call_that_ends_while_it_waits_is_not_resumed() -> None:
    bench = SelectorBench(1)
    call, first = bench.accepted()
    bench.connection_lost(first)
    call.end("hangup")
    again = bench.connect()
    assert sent(again) == []
    assert bench.selector.poll_timeout() == inf


def test_a_call_resumes_on_another_address_if_one_is_full_or_does_not_answer() -> None:
    bench = SelectorBench(4)
    call, first = bench.accepted()
    full, mute, good = bench.connect(9), bench.connect(8), bench.connect(7)
    bench.connection_lost(first)
    assert len(started(full)) == 1
    bench.receive(full, frames.Refused(call.number, "full"))
    assert len(started(mute)) == 1
    bench.pass_time(RESUME_SECONDS / 2 + LOOK_INTERVAL)
    assert frames.Ended(1, "no_answer") in sent(mute)
    taker = full if full.pending else good
    assert [frame.resumed_ms for frame in started(taker)] == [1]
    bench.receive(taker, frames.Accepted(call.number))
    assert bench.delivered == []


def test_a_refusal_for_any_reason_but_full_ends_a_resumed_call() -> None:
    bench = SelectorBench(4)
    call, first = bench.accepted()
    second = bench.connect()
    bench.connect()
    bench.connection_lost(first)
    taker = bench.find(call)
    bench.receive(taker, frames.Refused(call.number, "unknown_call"))
    assert bench.delivered == [frames.Refused(call.number, "unknown_call")]
    assert second.calls == 0


def test_a_call_that_crashes_every_backend_ends_after_some_resumptions() -> None:
    bench = SelectorBench(4)
    call, connection = bench.accepted()
    for _ in range(MAX_TRIES - 1):
        another = bench.connect()
        bench.connection_lost(connection)
        assert len(started(another)) == 1
        bench.receive(another, frames.Accepted(call.number))
        connection = another
    bench.connect()
    bench.connection_lost(connection)
    assert bench.delivered == [frames.Ended(call.number, BACKEND_LOST)]


def test_crashes_far_apart_do_not_use_up_the_tries_of_a_call() -> None:
    bench = SelectorBench(4)
    call, connection = bench.accepted()
    for _ in range(2 * MAX_TRIES):
        bench.pass_time(RESUME_SECONDS)
        another = bench.connect()
        bench.connection_lost(connection)
        bench.receive(another, frames.Accepted(call.number))
        connection = another
    assert call.state is BackendCallState.ACCEPTED


def test_calls_stay_on_a_draining_connection() -> None:
    bench = SelectorBench(4)
    call, first = bench.accepted()
    second = bench.connect()
    bench.receive(first, frames.BackendDrain())
    bench.pass_time(1)
    call.send_audio(FRAME, 0)
    assert positions(first) == [0]
    assert started(second) == []


def test_events_pass_in_both_directions_in_order_and_follow_the_held_audio() -> None:
    bench = SelectorBench(4)
    call, first = bench.accepted()
    bench.receive(first, frames.ServerEvent(call.number, pack({"type": "response.done", "n": [1, None]})))
    assert bench.delivered == [frames.ServerEvent(call.number, pack({"type": "response.done", "n": [1, None]}))]
    call.send_event({"type": "first"})
    assert sent(first) == [frames.ClientEvent(call.number, pack({"type": "first"}))]
    bench.receive(first, frames.Pong(0))
    bench.connection_lost(first)
    for name in ("second", "third"):
        call.send_event({"type": name})
        call.send_audio(FRAME, 0)
    again = bench.connect()
    started(again)
    bench.receive(again, frames.Accepted(call.number))
    events = [frame.event if isinstance(frame, frames.ClientEvent) else EMPTY for frame in sent(again)[1:]]
    assert [unpack(event).get("type") for event in events] == [None, None, "second", "third"]


@pytest.mark.parametrize("event", [{"text": "x" * frames.MAX_EVENT_SIZE}, {"huge": 10**40}, {"what": object()}])
def test_an_event_too_large_for_a_frame_is_refused_without_other_effect(event: dict[str, Any]) -> None:
    bench = SelectorBench(4)
    call, connection = bench.accepted()
    with pytest.raises(EventRefused):
        call.send_event(event)
    assert sent(connection) == []
    call.send_event({"type": "fine"})
    assert len(sent(connection)) == 1
    assert bench.selector.counters.events_refused == 1


def test_a_flood_of_events_is_refused_before_it_affects_other_calls() -> None:
    bench = SelectorBench(4)
    call, connection = bench.accepted()
    flood = ({"text": "x" * 1000} for _ in range(10_000))
    with pytest.raises(EventRefused):
        list(map(call.send_event, flood))
    total = sum(len(frames.encode([frame])) for frame in sent(connection))
    assert MAX_WAITING_EVENT_BYTES * 0.9 < total < MAX_WAITING_EVENT_BYTES * 1.1
    call.send_event({"type": "again"})
    assert connection.closing is None


def test_calls_start_on_the_connection_with_the_most_free_slots() -> None:
    bench = SelectorBench(3, 5)
    for _ in range(8):
        bench.open()
    numbers = [len(started(connection)) for connection in bench.selector.connections]
    assert numbers == [3, 5]
    assert bench.selector.free_slots(bench.now) == 0
