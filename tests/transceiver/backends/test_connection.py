"""A backend connection without a network: the test sends messages for the backend and reads the answers."""

import gc
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any

import msgspec
import pytest

from antiphon_common import frames
from antiphon_common.formats import MAX_PACKET_BYTES, AudioFormat
from antiphon_common.frames import CREDIT_MS
from antiphon_common.json_objects import pack
from antiphon_transceiver.backends import (
    BACKEND_LOST,
    BackendCall,
    BackendConnection,
    EventRefused,
    InboundFrame,
    SessionTooLarge,
)
from antiphon_transceiver.backends.call import (
    ACCEPT_TIMEOUT,
    MAX_WAITING_EVENT_BYTES,
    MAX_WAITING_EVENTS,
    BackendCounters,
)
from antiphon_transceiver.backends.connection import FULL_HOLD, MAX_UNACKNOWLEDGED_BYTES
from antiphon_transceiver.channels import read_event

AUDIO = AudioFormat.parse("pcm16/24000")
FRAME = bytes(AUDIO.frame_bytes)
"""20 ms of silence."""


class ConnectionBench:
    """A connection after the hello, and its output at both ends."""

    def __init__(self, slots: int = 4, formats: tuple[str, ...] = ("pcm16/24000",)) -> None:
        self.now = 100.0
        self.connection = BackendConnection(BackendCounters(), self.now)
        self.delivered: dict[int, list[InboundFrame]] = {}
        self.receive(frames.BackendHello(frames.VERSION, slots, formats))
        self.sent()

    def open(self, **session: Any) -> BackendCall:
        audio_format = self.connection.choose_format(AUDIO.name)
        assert audio_format is not None
        call = self.connection.open(audio_format, "rtc_1", "acme", session, {}, self.now)
        self.delivered[call.number] = []
        return call

    def accepted(self) -> BackendCall:
        """Open a call, accept it, and grant its first credit."""
        call = self.open()
        self.receive(frames.Accepted(call.number))
        self.sent()
        self.delivered[call.number].clear()
        return call

    def speaking(self) -> BackendCall:
        call = self.accepted()
        self.receive(frames.ResponseStarted(call.number, 1))
        self.delivered[call.number].clear()
        return call

    def receive(self, *batch: frames.Frame) -> None:
        """Deliver frames of the backend in one message."""
        self.receive_message(msgspec.msgpack.encode(batch))

    def receive_message(self, message: bytes) -> None:
        self.connection.receive_message(message, self.now)
        while (delivery := self.connection.poll_event()) is not None:
            self.delivered[delivery.call.number].append(delivery.frame)

    def sent(self) -> list[Any]:
        """Return the frames sent to the backend."""
        found: list[Any] = []
        while (message := self.connection.poll_transmit()) is not None:
            found += frames.decode(message)
        return found

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while (deadline := self.connection.poll_timeout()) <= end:
            self.now = deadline
            self.connection.handle_timeout(deadline)
            self.receive_message(frames.encode([frames.Pong(0)]))
        self.now = end


def audio(call: BackendCall, response: int = 1, data: bytes = FRAME) -> frames.Audio:
    return frames.Audio(call.number, data, response=response)


def test_a_call_is_started_accepted_and_given_its_first_credit() -> None:
    bench = ConnectionBench()
    call = bench.open(model="echo")
    assert bench.sent() == [frames.Started(call.number, "rtc_1", "acme", "pcm16/24000", pack({"model": "echo"}))]
    bench.receive(frames.Accepted(call.number))
    assert bench.delivered[call.number] == [frames.Accepted(call.number)]
    assert bench.sent() == [frames.Credit(call.number, CREDIT_MS)]


def test_audio_before_acceptance_is_held_for_three_seconds_and_sent_in_order() -> None:
    bench = ConnectionBench()
    call = bench.open()
    bench.sent()
    for position in range(0, 4 * 24000, 480):
        call.send_audio(FRAME, position)
    assert bench.sent() == []
    bench.receive(frames.Accepted(call.number))
    credit, *acknowledged = bench.sent()
    assert credit == frames.Credit(call.number, CREDIT_MS)
    assert [frame.position for frame in acknowledged] == list(range(24000, 4 * 24000, 480))
    assert bench.connection.counters.audio_dropped == 50


def test_the_oldest_audio_is_dropped_for_a_stalled_backend_and_no_control_frames() -> None:
    bench = ConnectionBench()
    quiet, busy = bench.accepted(), bench.accepted()
    quiet.send_audio(FRAME, 0)
    for position in range(0, 10 * 24000, 480):  # nobody calls poll_transmit: the writer is stuck
        busy.send_audio(FRAME, position)
    busy.interrupted(1, 0)
    sent = bench.sent()
    assert sent[0] == frames.Interrupted(busy.number, 1, 0)
    assert [frame.position for frame in sent if isinstance(frame, frames.Audio) and frame.call == quiet.number] == [0]
    kept = [frame.position for frame in sent if isinstance(frame, frames.Audio) and frame.call == busy.number]
    assert kept == list(range(7 * 24000, 10 * 24000, 480))
    assert bench.connection.counters.audio_dropped == 350


def test_credit_is_returned_in_steps_up_to_the_credit_used() -> None:
    bench = ConnectionBench()
    call = bench.speaking()
    bench.receive(*[audio(call)] * 50)
    for _ in range(4):
        call.grant(20)
    assert bench.sent() == []
    call.grant(20)
    assert bench.sent() == [frames.Credit(call.number, 100)]
    call.grant(100_000)
    assert bench.sent() == [frames.Credit(call.number, 900)]


def test_audio_beyond_the_credit_ends_only_that_call() -> None:
    bench = ConnectionBench()
    greedy, modest = bench.speaking(), bench.speaking()
    bench.receive(*[audio(greedy)] * (CREDIT_MS // 20))
    assert len(bench.delivered[greedy.number]) == CREDIT_MS // 20
    bench.receive(audio(greedy), audio(modest))
    last = bench.delivered[greedy.number][-1]
    assert isinstance(last, frames.BadFrame)
    assert "overrun" in last.detail
    assert bench.sent() == [frames.Ended(greedy.number, "bad_frame")]
    assert bench.delivered[modest.number] == [audio(modest)]


def test_an_opus_packet_too_long_for_a_datagram_ends_its_call() -> None:
    bench = ConnectionBench(formats=("opus",))
    call = bench.speaking()
    frame_of_20_ms = b"\x78"
    bench.receive(audio(call, data=frame_of_20_ms.ljust(MAX_PACKET_BYTES, b"\0")))
    assert len(bench.delivered[call.number]) == 1
    bench.receive(audio(call, data=frame_of_20_ms.ljust(MAX_PACKET_BYTES + 1, b"\0")))
    assert isinstance(bench.delivered[call.number][-1], frames.BadFrame)
    assert bench.sent() == [frames.Ended(call.number, "bad_frame")]


def test_late_audio_of_a_cleared_response_is_dropped_and_its_credit_returned() -> None:
    bench = ConnectionBench()
    call = bench.speaking()
    bench.receive(*[audio(call)] * 200)
    call.grant(CREDIT_MS)
    call.interrupted(1, 1500)
    bench.sent()
    bench.delivered[call.number].clear()
    bench.receive(*[audio(call)] * 5, frames.ResponseEnded(call.number, 1))
    assert bench.delivered[call.number] == []
    assert bench.connection.counters.late_frames == 5
    assert bench.sent() == [frames.Credit(call.number, 100)]
    bench.receive(frames.ResponseStarted(call.number, 2), audio(call, 2))
    assert bench.delivered[call.number] == [frames.ResponseStarted(call.number, 2), audio(call, 2)]


def test_a_clear_of_the_backend_is_delivered_and_ends_its_response() -> None:
    bench = ConnectionBench()
    call = bench.speaking()
    bench.receive(audio(call), frames.Clear(call.number, 1), audio(call))
    assert bench.delivered[call.number] == [audio(call), frames.Clear(call.number, 1)]


@pytest.mark.parametrize(
    "frame",
    [
        [6, 1, FRAME, 0, 0, 2],  # a response that was not started
        [6, 1, FRAME, 0, 0, 0],
        [6, 1, b"odd", 0, 0, 1],
        [6, 1, b"", 0, 0, 1],
        [6, 1, FRAME * 51, 0, 0, 1],  # more than a second
        [6, 1, "text", 0, 0, 1],
        [10, 1, 1],  # a number a second time
        [11, 1, 2],
        [8, 1, 2],
        [3, 1],  # accepted twice
        [7, 1, 20],  # the transceiver's to send
        [2, 1, "rtc_9", "acme", "opus"],
        [6, 1],
    ],
)
def test_a_frame_that_violates_the_protocol_ends_only_its_call(frame: list[Any]) -> None:
    bench = ConnectionBench()
    first, second = bench.speaking(), bench.speaking()
    assert first.number == 1
    bench.receive_message(msgspec.msgpack.encode([frame, [99, 1, 2], ["what"], [6, 2, FRAME, 0, 0, 1]]))
    assert [type(acknowledged) for acknowledged in bench.delivered[1]] == [frames.BadFrame]
    assert bench.sent() == [frames.Ended(1, "bad_frame")]
    assert bench.delivered[2] == [audio(second)]
    assert bench.connection.calls == 1


@pytest.mark.parametrize(
    "frame",
    [
        [6, 1, FRAME, 0, 0, 1],
        [8, 1, 0],
        [10, 1, 1],
        [11, 1, 1],
        [12, 1],
        [17, 1, {"type": "early"}],
    ],
    ids=["audio", "clear", "response started", "response ended", "hang up", "server event"],
)
def test_a_frame_before_accepted_is_refused(frame: list[Any]) -> None:
    bench = ConnectionBench()
    bench.open()
    bench.sent()
    bench.receive_message(msgspec.msgpack.encode([frame]))
    assert [type(acknowledged) for acknowledged in bench.delivered[1]] == [frames.BadFrame]
    assert bench.sent() == [frames.Ended(1, "bad_frame")]


def test_a_refused_call_ends_and_a_full_backend_is_skipped_for_a_moment() -> None:
    bench = ConnectionBench()
    call = bench.open()
    bench.receive(frames.Refused(call.number, "full", "all slots are taken"))
    assert bench.delivered[call.number] == [frames.Refused(call.number, "full", "all slots are taken")]
    assert bench.connection.free_slots(bench.now) == 0
    assert bench.connection.free_slots(bench.now + FULL_HOLD) == 4
    bench.sent()
    call.send_audio(FRAME, 0)
    call.grant(20)
    call.end("hangup")
    assert bench.sent() == []


def test_a_call_ends_if_its_backend_neither_accepts_nor_refuses_it() -> None:
    bench = ConnectionBench()
    call = bench.open()
    bench.pass_time(ACCEPT_TIMEOUT + 1)
    assert [type(acknowledged) for acknowledged in bench.delivered[call.number]] == [frames.Ended]
    assert frames.Ended(call.number, "no_answer") in bench.sent()
    assert bench.connection.free_slots(bench.now) == 4


def test_a_call_ended_by_its_session_receives_no_more_frames() -> None:
    bench = ConnectionBench()
    call = bench.speaking()
    bench.connection.receive_message(frames.encode([audio(call)]), bench.now)
    call.end("hangup")
    assert bench.connection.poll_event() is None
    assert bench.sent() == [frames.Ended(call.number, "hangup")]
    bench.receive(audio(call), frames.HangUp(call.number), frames.Ended(call.number))
    assert bench.connection.counters.stale_frames == 3
    assert bench.connection.counters.calls_failed == 0


def test_a_backend_sends_no_new_audio_after_hanging_up() -> None:
    bench = ConnectionBench()
    call = bench.speaking()
    bench.receive(audio(call), frames.HangUp(call.number, "goodbye"), frames.Clear(call.number, 1))
    assert len(bench.delivered[call.number]) == 3
    bench.receive(frames.ResponseStarted(call.number, 2))
    assert isinstance(bench.delivered[call.number][-1], frames.BadFrame)


def test_a_lost_connection_ends_every_call() -> None:
    bench = ConnectionBench()
    calls = [bench.accepted(), bench.open()]
    bench.connection.connection_lost()
    bench.receive_message(b"\x90")
    for call in calls:
        assert bench.delivered[call.number] == [frames.Ended(call.number, BACKEND_LOST)]
        call.send_audio(FRAME, 0)
        call.end("hangup")
    assert bench.sent() == []
    assert bench.connection.poll_timeout() == inf


def test_free_slots_are_those_of_the_latest_hello_less_the_running_calls() -> None:
    bench = ConnectionBench(slots=2)
    first = bench.open()
    bench.open()
    assert bench.connection.free_slots(bench.now) == 0
    first.end("hangup")
    assert bench.connection.free_slots(bench.now) == 1
    bench.receive(frames.BackendHello(frames.VERSION, 5, ("opus",)))
    assert bench.connection.free_slots(bench.now) == 4
    bench.receive(frames.BackendDrain())
    assert bench.connection.free_slots(bench.now) == 0


@pytest.mark.parametrize(
    ("offered", "preferred", "chosen"),
    [
        (("pcm16/16000", "opus"), "opus", "opus"),
        (("pcm16/16000", "opus"), "pcm16/24000", "pcm16/16000"),
        (("flac", "opus"), "pcm16/24000", "opus"),
        (("flac",), "flac", None),
    ],
)
def test_the_preferred_format_is_chosen_if_it_is_supported(
    offered: tuple[str, ...], preferred: str, chosen: str | None
) -> None:
    bench = ConnectionBench(formats=offered)
    audio_format = bench.connection.choose_format(preferred)
    assert (audio_format.name if audio_format else None) == chosen
    assert bool(bench.connection.free_slots(bench.now)) == (chosen is not None)


@pytest.mark.parametrize("session", [{"text": "x" * 300_000}, {"huge": 10**40}])
def test_a_session_too_large_for_a_frame_ends_only_its_call(session: dict[str, Any]) -> None:
    bench = ConnectionBench()
    with pytest.raises(SessionTooLarge):
        bench.open(**session)
    assert bench.connection.calls == 0
    assert bench.sent() == []


def small_parts(count: int) -> dict[str, Any]:
    """Return an object of many members that take far more memory than their bytes."""
    return {"items": [{"k": number, "v": [number]} for number in range(count)]}


def held(make: Callable[[], object]) -> int:
    """Return the memory in bytes of the object that `make` returns."""
    gc.collect()
    tracemalloc.start()
    try:
        kept = make()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] if kept is not None else 0
    finally:
        tracemalloc.stop()


def test_events_queued_for_a_backend_take_little_more_memory_than_their_bytes() -> None:
    bench = ConnectionBench()
    call = bench.accepted()
    text = msgspec.json.encode(small_parts(1500)).decode()

    def flood() -> BackendCall:
        with suppress(EventRefused):
            while True:
                call.send_event(read_event(text))
        return call

    assert held(flood) < 1.5 * MAX_WAITING_EVENT_BYTES


def test_short_events_queued_for_a_backend_are_bounded_in_number() -> None:
    bench = ConnectionBench()
    call = bench.open()
    for _ in range(MAX_WAITING_EVENTS):
        call.send_event({})
    with pytest.raises(EventRefused, match=f"{MAX_WAITING_EVENTS} events"):
        call.send_event({})
    bench.receive(frames.Accepted(call.number))
    assert sum(isinstance(frame, frames.ClientEvent) for frame in bench.sent()) == MAX_WAITING_EVENTS
    call.send_event({})


def test_sent_events_free_their_places_in_the_queue() -> None:
    bench = ConnectionBench()
    call = bench.accepted()
    for number in range(20):
        call.send_event({"number": number, "text": "x" * (frames.MAX_EVENT_SIZE // 2)})
        assert [type(frame) for frame in bench.sent()] == [frames.ClientEvent]


def test_the_session_of_a_call_takes_little_more_memory_than_its_bytes() -> None:
    bench = ConnectionBench()
    session = small_parts(1500)
    size = len(msgspec.msgpack.encode(session))
    bench.open(model="warm")
    bench.sent()

    def open_and_send() -> BackendCall:
        call = bench.open(**session)
        assert len(bench.sent()) == 1
        return call

    assert held(open_and_send) < 2 * size + 20_000


def test_frames_sent_since_the_last_received_one_are_bounded() -> None:
    bench = ConnectionBench(slots=80)
    calls = [bench.open() for _ in range(40)]
    bench.receive(*[frames.Accepted(call.number) for call in calls])
    bench.sent()

    def flood() -> ConnectionBench:
        for position in range(0, 2_000_000, 24_000):
            for call in calls:
                call.send_audio(bytes(48_000), position)
            bench.sent()
        return bench

    assert held(flood) < 1.1 * MAX_UNACKNOWLEDGED_BYTES


def test_deep_nesting_in_one_frame_ends_its_call_and_no_other() -> None:
    bench = ConnectionBench()
    bad, good = bench.accepted(), bench.speaking()
    nested = bytes([0x93, 0x11, bad.number]) + b"\x81\xa1a" + b"\x91" * 100_000 + b"\xc0"
    bench.receive_message(b"\x92" + nested + msgspec.msgpack.encode(audio(good)))
    assert [type(frame) for frame in bench.delivered[bad.number]] == [frames.BadFrame]
    assert bench.delivered[good.number] == [audio(good)]
    assert bench.sent() == [frames.Ended(bad.number, "bad_frame")]
    assert bench.connection.closing is None


def test_a_message_of_a_million_elements_ends_its_connection_at_once() -> None:
    bench = ConnectionBench()
    bench.accepted()
    bench.receive_message(b"\xdd\x00\x0f\x00\x00" + b"\xc0" * 0xF0000)
    assert bench.connection.closing is not None
    assert (bench.connection.closing.code, bench.connection.closing.detail) == (
        1009,
        "a message of 983040 frames, 4096 is the most",
    )
    assert bench.connection.counters.bad_frames == 0


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
@pytest.mark.parametrize("acknowledged", [True, False])
def test_a_resumed_call_reports_the_position_of_its_next_sample(rate: int, acknowledged: bool) -> None:
    """`resumed_ms` is the position, in milliseconds, of the next sample that the new backend receives."""
    name = f"pcm16/{rate}"
    bench = ConnectionBench(formats=(name,))
    call = bench.connection.open(AudioFormat.parse(name), "rtc_1", "acme", {}, {}, bench.now)
    bench.delivered[call.number] = []
    bench.receive(frames.Accepted(call.number))
    for position in range(0, rate, rate // 50):
        call.send_audio(bytes(2 * rate // 50), position)
    bench.sent()
    if acknowledged:
        bench.receive(frames.Pong(0))
    bench.connection.connection_lost()
    again = BackendConnection(BackendCounters(), bench.now)
    again.receive_message(frames.encode([frames.BackendHello(frames.VERSION, 4, (name,))]), bench.now)
    again.resume(call, bench.now)
    message = again.poll_transmit()
    assert message is not None
    [started] = [frame for frame in frames.decode(message) if isinstance(frame, frames.Started)]
    assert started.resumed_ms == (1000 if acknowledged else 1)
    call.send_audio(bytes(2 * rate // 50), rate)
    again.receive_message(frames.encode([frames.Accepted(started.call)]), bench.now)
    message = again.poll_transmit()
    assert message is not None
    positions = [frame.position for frame in frames.decode(message) if isinstance(frame, frames.Audio)]
    assert positions[0] * 1000 // rate == (1000 if acknowledged else 0)


OPUS_20_MS, OPUS_60_MS = b"\xf8x", b"\x18x"


@pytest.mark.parametrize(
    ("last", "position", "resumed_ms"), [(OPUS_20_MS, 9600, 220), (OPUS_60_MS, 9600, 260), (b"", 9600, 200)]
)
def test_a_resumed_opus_call_continues_after_the_last_acknowledged_packet(
    last: bytes, position: int, resumed_ms: int
) -> None:
    bench = ConnectionBench(formats=("opus",))
    call = bench.connection.open(AudioFormat.parse("opus"), "rtc_1", "acme", {}, {}, bench.now)
    bench.delivered[call.number] = []
    bench.receive(frames.Accepted(call.number))
    call.send_audio(last, position)
    bench.sent()
    bench.receive(frames.Pong(0))
    bench.connection.connection_lost()
    bench.connection.resume(call, bench.now)
    assert call.start(bench.connection, call.number, bench.now).resumed_ms == resumed_ms
