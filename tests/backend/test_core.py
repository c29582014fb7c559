"""The connection of a transceiver without a network: the test sends frames and reads the answers."""

import gc
import tracemalloc
from typing import Any

import msgspec
import pytest

from antiphon_backend.core import (
    HIGH_WATER,
    MAX_AUDIO_BYTES,
    CallCore,
    CallOffered,
    CallState,
    Slots,
    Speech,
    TransceiverConnection,
)
from antiphon_backend.waiting_events import MAX_EVENT_BYTES, MAX_EVENTS, EventFrame
from antiphon_common import frames
from antiphon_common.errors import DecodeError
from antiphon_common.frame_connection import ConnectionCounters
from antiphon_common.json_objects import pack, unpack

FRAME = bytes(960)
"""20 ms of silence at 24 kHz."""


class TransceiverConnectionBench:
    """A connection after the hello, and its output at both ends."""

    def __init__(self, slots: int = 4) -> None:
        self.slots = Slots(slots)
        self.session = TransceiverConnection(self.slots, ("pcm16/24000", "opus"), ConnectionCounters(), 0.0)
        self.offered: list[CallCore] = []
        self.changed: list[CallCore] = []
        self.receive(frames.BackendHello(frames.VERSION))
        assert self.sent() == [frames.BackendHello(frames.VERSION, slots, ("pcm16/24000", "opus"))]

    def receive(self, *batch: frames.Frame) -> None:
        self.receive_message(msgspec.msgpack.encode(batch))

    def receive_message(self, message: bytes) -> None:
        self.session.receive_message(message, 0.0)
        self.settle()

    def settle(self) -> None:
        self.changed.clear()
        while (event := self.session.poll_event()) is not None:
            (self.offered if isinstance(event, CallOffered) else self.changed).append(event.call)

    def sent(self) -> list[Any]:
        found: list[Any] = []
        while (message := self.session.poll_transmit()) is not None:
            found += frames.decode(message)
        return found

    def offer(self, number: int = 1, audio: str = "pcm16/24000") -> CallCore:
        self.receive(frames.Started(number, f"rtc_{number}", "acme", audio))
        return self.offered[-1]

    def accepted(self, number: int = 1, audio: str = "pcm16/24000", credit: int = frames.CREDIT_MS) -> CallCore:
        call = self.offer(number, audio)
        call.accept()
        self.receive(frames.Credit(number, credit))
        self.sent()
        return call


def event_of(frame: EventFrame) -> dict[str, Any]:
    assert isinstance(frame, frames.ClientEvent)
    return unpack(frame.event)


def test_a_call_is_accepted_once_explicitly_or_by_its_first_response() -> None:
    bench = TransceiverConnectionBench()
    call = bench.offer()
    assert bench.sent() == []
    call.accept()
    call.start_response()
    call.accept()
    assert bench.sent() == [frames.Accepted(1), frames.ResponseStarted(1, 1)]


def test_slots_are_counted_over_all_connections() -> None:
    bench, other = TransceiverConnectionBench(slots=2), TransceiverConnectionBench()
    other.session = TransceiverConnection(bench.slots, ("pcm16/24000",), ConnectionCounters(), 0.0)
    other.receive(frames.BackendHello(frames.VERSION))
    bench.offer(1)
    other.offer(1)
    bench.receive(frames.Started(2, "rtc_2", "acme", "pcm16/24000"))
    assert [type(frame) for frame in bench.sent()] == [frames.Refused]
    other.receive(frames.Ended(1, "hangup"))
    bench.offer(3)
    other.session.lost()
    bench.session.lost()
    assert bench.slots.taken == 0


@pytest.mark.parametrize(("audio", "drained", "code"), [("pcm16/8000", False, "format"), ("opus", True, "draining")])
def test_a_call_that_cannot_be_taken_is_refused(audio: str, drained: bool, code: str) -> None:
    bench = TransceiverConnectionBench()
    if drained:
        bench.session.drain()
    bench.receive(frames.Started(1, "rtc_1", "acme", audio))
    assert [frame.code for frame in bench.sent() if isinstance(frame, frames.Refused)] == [code]
    assert bench.offered == []


def test_audio_is_cut_into_frames_and_waits_for_credit() -> None:
    bench = TransceiverConnectionBench()
    call = bench.accepted(credit=50)
    call.start_response()
    pcm = bytes(range(256)) * 15  # four frames of 960 bytes
    sent = call.send_audio(pcm)
    assert sent == 2 * 960
    bench.receive(frames.Credit(1, 30))
    assert call.news
    sent = call.send_audio(pcm, sent)
    assert sent == len(pcm)
    assert b"".join(frame.data for frame in bench.sent() if isinstance(frame, frames.Audio)) == pcm


def test_pcm_split_within_a_sample_is_joined() -> None:
    bench = TransceiverConnectionBench()
    call = bench.accepted()
    call.start_response()
    pcm = bytes(range(200))
    for start, end in ((0, 51), (51, 52), (52, 53), (53, 53), (53, 200)):
        piece = call.whole_samples(pcm[start:end])
        assert call.send_audio(piece) == len(piece)
    data = [frame.data for frame in bench.sent() if isinstance(frame, frames.Audio)]
    assert b"".join(data) == pcm
    assert all(piece and len(piece) % 2 == 0 for piece in data)


def test_the_credit_for_an_opus_packet_follows_its_toc_byte() -> None:
    bench = TransceiverConnectionBench()
    call = bench.accepted(audio="opus", credit=100)
    call.start_response()
    sixty_ms = b"\x18" + bytes(50)
    assert call.send_audio(sixty_ms) == len(sixty_ms)
    assert call.send_audio(sixty_ms) == 0
    with pytest.raises(DecodeError):
        call.send_audio(b"\x03")


def test_no_audio_of_an_interrupted_response_is_sent_until_another_starts() -> None:
    bench = TransceiverConnectionBench()
    call = bench.accepted()
    number = call.start_response()
    bench.receive(frames.Interrupted(1, number, 300))
    assert call.interrupted == frames.Interrupted(1, number, 300)
    assert call.speech is Speech.CUT
    assert not call.speaks(number)
    following = call.start_response()
    assert call.speaks(following)
    bench.receive(frames.Interrupted(1, number, 300))
    assert call.speaks(following), "a late answer to an earlier clear"


def test_a_clear_refers_to_the_latest_response_and_a_new_one_may_follow() -> None:
    bench = TransceiverConnectionBench()
    call = bench.accepted()
    call.clear()
    assert bench.sent() == []
    number = call.start_response()
    call.clear()
    assert not call.speaks(number)
    assert call.start_response() == number + 1
    assert bench.sent() == [frames.ResponseStarted(1, 1), frames.Clear(1, 1), frames.ResponseStarted(1, 2)]


def test_hanging_up_ends_the_current_response() -> None:
    bench = TransceiverConnectionBench()
    call = bench.accepted()
    call.start_response()
    call.hang_up("goodbye")
    call.hang_up()
    assert bench.sent() == [
        frames.ResponseStarted(1, 1),
        frames.ResponseEnded(1, 1),
        frames.HangUp(1, "goodbye"),
    ]
    assert bench.slots.taken == 1, "until the transceiver reports that all was played"
    bench.receive(frames.Audio(1, FRAME), frames.Ended(1, "backend_ended"))
    assert call.state is CallState.OVER
    assert bench.slots.taken == 0


@pytest.mark.parametrize("frame", [[6, 1, "text"], [3, 1], [10, 1, 1], [2, 1, "rtc_1", "acme", "opus"], [7, 1, -5]])
def test_a_frame_that_violates_the_protocol_ends_only_its_call(frame: list[Any]) -> None:
    bench = TransceiverConnectionBench()
    first, second = bench.accepted(1), bench.accepted(2)
    bench.receive_message(msgspec.msgpack.encode([frame, [99, 1], [6, 2, FRAME, 0, 0]]))
    assert bench.sent() == [frames.Ended(1, "bad_frame")]
    assert first.state is CallState.OVER
    assert len(second.audio.frames) == 1


def test_the_oldest_audio_is_dropped_for_a_handler_that_does_not_read() -> None:
    bench = TransceiverConnectionBench()
    call = bench.accepted()
    bench.receive(*[frames.Audio(1, FRAME, position) for position in range(0, 5 * 24000, 480)])
    assert bench.changed == [call], "one notice for the whole message"
    assert call.audio.dropped == 100
    assert [frame.position for frame in call.audio.frames] == list(range(2 * 24000, 5 * 24000, 480))


def test_unread_events_are_bounded() -> None:
    bench = TransceiverConnectionBench()
    call = bench.offer()
    event = {"type": "conversation.item.create", "text": "x" * 100_000}
    bench.receive(*[frames.ClientEvent(1, pack({**event, "number": number})) for number in range(30)])
    assert len(call.events.frames) * 100_000 <= MAX_EVENT_BYTES
    assert call.events.dropped == 30 - len(call.events.frames)
    assert event_of(call.events.frames[-1])["number"] == 29
    assert event_of(call.events.pop())["number"] == call.events.dropped


def test_short_unread_events_are_bounded_in_number() -> None:
    bench = TransceiverConnectionBench()
    call = bench.offer()
    for begin in range(0, MAX_EVENTS + 100, 100):
        bench.receive(*[frames.ClientEvent(1, pack({"n": number})) for number in range(begin, begin + 100)])
    assert len(call.events.frames) == MAX_EVENTS
    assert event_of(call.events.pop())["n"] == call.events.dropped


def test_frames_of_a_turn_stay_behind_their_audio() -> None:
    bench = TransceiverConnectionBench()
    call = bench.accepted()
    started, stopped = frames.SpeechStarted(1, 1, 0), frames.SpeechStopped(1, 1, 60)
    committed, event = frames.TurnCommitted(1, 1, 0, 60), frames.ClientEvent(1, pack({"type": "x"}), 3)
    audio = [frames.Audio(1, FRAME, position) for position in range(0, 4 * 480, 480)]
    sent = [audio[0], started, audio[1], audio[2], stopped, committed, event, audio[3], frames.SidebandAttached(1, 3)]
    bench.receive(*sent)
    assert [call.next_frame() for _ in sent] == sent
    assert call.next_frame() is None


def test_frames_of_a_turn_keep_their_place_when_audio_is_dropped() -> None:
    bench = TransceiverConnectionBench()
    call = bench.accepted()
    committed = frames.TurnCommitted(1, 1, 0, 20)
    bench.receive(frames.Audio(1, FRAME, 0), committed)
    bench.receive(*[frames.Audio(1, FRAME, position) for position in range(480, 4 * 24000, 480)])
    assert call.audio.dropped > 1
    assert call.next_frame() == committed


def test_an_interruption_by_a_turn_cuts_the_response_and_counts_what_was_played() -> None:
    bench = TransceiverConnectionBench()
    call = bench.accepted()
    number = call.start_response()
    bench.receive(frames.SpeechStarted(1, 2, 7000, number), frames.Interrupted(1, number, 1240, turn=2, at_ms=8240))
    assert call.speech is Speech.CUT
    assert call.outcome(number) == frames.Interrupted(1, number, 1240, 2, 8240)
    assert call.outcome(number + 1) is None


def test_the_end_of_playout_of_each_response_is_kept() -> None:
    bench = TransceiverConnectionBench()
    call = bench.accepted()
    for _ in range(3):
        call.start_response()
    played, cut = frames.Played(1, 1, 2000), frames.Interrupted(1, 3, 0, turn=1)
    bench.receive(frames.Playing(1, 1, 1000), played, cut)
    assert [call.outcome(number) for number in (1, 2, 3)] == [played, cut, cut]


def test_turn_detection_is_configured_by_a_frame() -> None:
    bench = TransceiverConnectionBench()
    call = bench.offer()
    call.configure("server_vad", threshold=0.7, idle_timeout_ms=6000)
    call.send_transcript(1, "ä" * frames.MAX_TRANSCRIPT, final=False)
    accepted, configure, transcript = bench.sent()
    assert accepted == frames.Accepted(1)
    assert configure == frames.Configure(1, "server_vad", threshold=0.7, idle_timeout_ms=6000)
    assert transcript == frames.Transcript(1, 1, "ä" * (frames.MAX_TRANSCRIPT // 2), final=False)


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "vad"},
        {"mode": "none", "eagerness": "eager"},
        {"mode": "none", "threshold": 1.5},
        {"mode": "none", "silence_duration_ms": -1},
        {"mode": "none", "idle_timeout_ms": 2**32},
    ],
)
def test_turn_detection_that_cannot_be_configured_raises(settings: dict[str, Any]) -> None:
    bench = TransceiverConnectionBench()
    call = bench.accepted()
    with pytest.raises(ValueError, match="turn detection"):
        call.configure(**settings)
    assert bench.sent() == []


def test_events_and_sessions_take_little_more_memory_than_their_bytes() -> None:
    """An event of many members stays encoded and does not keep its message."""
    bench = TransceiverConnectionBench()
    parts = {"items": [{"k": number, "v": [number]} for number in range(1500)]}
    size = len(msgspec.msgpack.encode(parts))
    offer = frames.Started(1, "rtc_1", "acme", "pcm16/24000", pack(parts), pack({"user": "7"}))
    started = bytearray(frames.encode([offer, frames.Audio(9, bytes(900_000))]))
    messages = [frames.encode([frames.ClientEvent(1, pack(parts)), frames.Audio(9, bytes(900_000))]) for _ in range(20)]
    gc.collect()
    tracemalloc.start()
    try:
        bench.session.receive_message(bytes(started), 0.0)
        for message in messages:
            bench.session.receive_message(bytes(bytearray(message)), 0.0)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 1.5 * 21 * size + 50_000


def test_audio_of_more_than_a_second_in_one_frame_ends_its_call() -> None:
    bench = TransceiverConnectionBench()
    bench.accepted()
    bench.receive(frames.Audio(1, bytes(MAX_AUDIO_BYTES)))
    assert frames.Ended(1, "bad_frame") not in bench.sent()
    bench.receive(frames.Audio(1, bytes(MAX_AUDIO_BYTES + 2)))
    assert bench.sent() == [frames.Ended(1, "bad_frame")]


def test_an_event_waits_while_the_connection_is_congested() -> None:
    bench = TransceiverConnectionBench()
    call = bench.accepted()
    sent = 0
    while call.send_event({"text": "x" * 10_000}):
        sent += 1
    assert sent * 10_000 <= HIGH_WATER + 10_000
    assert len(bench.sent()) == sent
    assert call.news
    assert call.send_event({"text": "once more"})
    call.end("done")
    assert call.send_event({"text": "for nobody"})


def test_a_resumed_call_may_clear_audio_of_its_previous_connection() -> None:
    bench = TransceiverConnectionBench()
    bench.receive(frames.Started(1, "rtc_1", "acme", "opus", resumed_ms=5000))
    call = bench.offered[-1]
    call.clear()  # the first that it does, which accepts the call
    bench.receive(frames.Interrupted(1, 0, 700))
    assert call.interrupted == frames.Interrupted(1, 0, 700)
    assert call.start_response() == 1
    assert bench.sent() == [frames.Accepted(1), frames.Clear(1, 0), frames.ResponseStarted(1, 1)]


def test_sending_audio_waits_while_the_connection_is_congested() -> None:
    bench = TransceiverConnectionBench()
    call = bench.accepted(credit=60_000)
    call.start_response()
    pcm = bytes(2 * HIGH_WATER)
    sent = call.send_audio(pcm)
    assert sent < len(pcm)
    assert call.send_audio(pcm, sent) == sent
    bench.settle()
    while not bench.changed:
        assert bench.session.poll_transmit() is not None
        bench.settle()
    assert bench.changed == [call]
    assert call.send_audio(pcm, sent) > sent


def test_every_call_of_a_lost_connection_ends() -> None:
    bench = TransceiverConnectionBench()
    calls = [bench.accepted(1), bench.offer(2)]
    bench.session.lost()
    bench.settle()
    assert {call.reason for call in calls} == {"transceiver_lost"}
    assert set(bench.changed) == set(calls)
    calls[0].end("late")
    calls[1].refuse("late", "")
    assert bench.sent() == []
