from math import inf

import msgspec
import pytest

from antiphon_common import frames, json_objects
from antiphon_common.frame_connection import (
    EVENT_FRAMES,
    FORGIVEN_JUNK,
    HEARTBEAT_INTERVAL,
    HELLO_TIMEOUT,
    MAX_IDLE,
    MAX_JUNK,
    MAX_PENDING_BYTES,
    MAX_PENDING_FRAMES,
    MESSAGE_BUDGET,
    STEP_FRAMES,
    CloseCode,
    ConnectionCounters,
    FrameConnection,
)

HELLO = frames.BackendHello(frames.VERSION)


def connection(*, greeted: bool = True) -> FrameConnection:
    made = FrameConnection(HELLO, ConnectionCounters(), 0.0)
    assert sent(made) == [HELLO]
    if greeted:
        made.receive_message(frames.encode([HELLO]))
    return made


def sent(connection: FrameConnection) -> list[frames.AnyFrame | frames.BadFrame | None]:
    found: list[frames.AnyFrame | frames.BadFrame | None] = []
    while (message := connection.poll_transmit()) is not None:
        found += frames.decode(message)
    return found


def closed_with(connection: FrameConnection) -> CloseCode | None:
    return connection.closing.code if connection.closing else None


def test_a_ping_is_answered_with_its_number() -> None:
    end = connection()
    assert end.receive_message(frames.encode([frames.Ping(41), frames.Ping(42)])) == []
    assert sent(end) == [frames.Pong(41), frames.Pong(42)]


def test_a_ping_is_sent_every_second_and_three_without_an_answer_close_the_connection() -> None:
    end = connection()
    now, pings = 0.0, []
    while (deadline := end.poll_timeout()) < inf:
        now = deadline
        end.handle_timeout(now)
        pings += sent(end)
    assert pings == [frames.Ping(1), frames.Ping(2), frames.Ping(3)]
    assert now == pytest.approx(4 * HEARTBEAT_INTERVAL)
    assert closed_with(end) is CloseCode.HEARTBEAT_LOST


def test_any_frame_keeps_a_connection_open() -> None:
    end = connection()
    for second in range(1, 60):
        end.handle_timeout(second * HEARTBEAT_INTERVAL)
        end.receive_message(frames.encode([frames.Credit(1, 20)]))
    assert end.closing is None


def test_a_connection_without_a_hello_is_closed() -> None:
    end = connection(greeted=False)
    while (deadline := end.poll_timeout()) < inf:
        assert deadline <= HELLO_TIMEOUT
        end.handle_timeout(deadline)
    assert closed_with(end) is CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "message",
    ["text", b"\xc1", frames.encode([frames.Ping(1)]), frames.encode([frames.Audio(1, b"ab"), HELLO])],
)
def test_a_connection_whose_first_frame_is_not_a_hello_ends(message: bytes | str) -> None:
    end = connection(greeted=False)
    assert end.receive_message(message) == []
    assert closed_with(end) is CloseCode.PROTOCOL_ERROR


def test_a_hello_of_another_version_is_refused_with_the_version() -> None:
    end = connection(greeted=False)
    end.receive_message(frames.encode([frames.BackendHello(7), frames.Accepted(1)]))
    assert end.closing is not None
    assert end.closing.code is CloseCode.VERSION_MISMATCH
    assert "version 7" in end.closing.detail


def test_malformed_messages_after_the_hello_are_counted_and_affect_no_call() -> None:
    end = connection()
    end.receive_message(b"\xc1 garbage")
    end.receive_message("text")
    received = end.receive_message(msgspec.msgpack.encode([[77, 1], [6, 5, None], [1], [13], [3, 1]]))
    assert [type(frame) for frame in received] == [frames.BadFrame, frames.Accepted]
    assert end.draining
    assert end.closing is None
    assert (end.counters.bad_messages, end.counters.unknown_tags, end.counters.bad_frames) == (2, 1, 2)


def test_a_long_queue_is_split_into_messages_in_order() -> None:
    end = connection()
    everything = [frames.Audio(1, bytes(1000), position) for position in range(1000)]
    for frame in everything:
        end.send(frame, 1000)
    messages = []
    while (message := end.poll_transmit()) is not None:
        messages.append(message)
    assert max(map(len, messages)) < MESSAGE_BUDGET + 2 * 1020
    assert [frame for message in messages for frame in frames.decode(message)] == everything
    assert end.pending_bytes == 0


def test_a_connection_that_does_not_read_is_closed() -> None:
    end = connection()
    sent = 0
    while end.closing is None and sent < 2 * MAX_PENDING_FRAMES:
        end.send(frames.Credit(1, 20))
        sent += 1
    assert closed_with(end) is CloseCode.NOT_READING
    assert sent == MAX_PENDING_FRAMES + 1
    assert end.poll_transmit() is None


@pytest.mark.parametrize(
    "message",
    [[frames.Ping(1)], [frames.Pong(1)], [frames.BackendDrain()], [HELLO], [], [frames.Ping(1)] * 500],
    ids=["pings", "pongs", "drains", "hellos", "empty messages", "pings in few messages"],
)
def test_a_flood_of_frames_without_a_call_ends_the_connection(message: list[frames.Frame]) -> None:
    end = connection()
    flood = frames.encode(message)
    for _ in range((MAX_IDLE - 1) // max(1, len(message))):
        end.receive_message(flood)
    assert end.closing is None
    for _ in range(2):
        end.receive_message(flood)
    assert closed_with(end) is CloseCode.PROTOCOL_ERROR


def test_heartbeats_without_calls_are_accepted() -> None:
    end = connection()
    for second in range(1, 1000):
        end.receive_message(frames.encode([frames.Ping(second), frames.Pong(second)]))
        end.receive_message(frames.encode([HELLO]))
        end.handle_timeout(second * HEARTBEAT_INTERVAL)
        assert end.closing is None


@pytest.mark.parametrize("message", [[[7, 1, 20]], [[6, 1, b"ab"]], [[18, 1]]], ids=["credit", "audio", "unknown tag"])
def test_many_messages_of_calls_are_accepted(message: list[list[object]]) -> None:
    end = connection()
    message_bytes = msgspec.msgpack.encode(message)
    for _ in range(20 * MAX_IDLE):
        end.receive_message(message_bytes)
    assert end.closing is None


def test_a_connection_that_does_not_read_long_frames_is_closed_sooner() -> None:
    end = connection()
    frame = frames.encode_frame(frames.Audio(1, bytes(10_000)))
    sent = 0
    while end.closing is None and sent < 2 * MAX_PENDING_BYTES:
        end.send(frame, 10_000)
        sent += 10_000
    assert closed_with(end) is CloseCode.NOT_READING
    assert MAX_PENDING_BYTES < sent <= MAX_PENDING_BYTES + 10_000


def test_a_long_message_is_processed_in_steps_in_order() -> None:
    end = connection()
    batch = [frames.Credit(1, number) for number in range(1000)]
    steps = list(end.receive_in_steps(frames.encode(batch)))
    assert max(map(len, steps)) <= STEP_FRAMES
    assert [frame for step in steps for frame in step] == batch


@pytest.mark.parametrize(("size", "at_most"), [(10, STEP_FRAMES // EVENT_FRAMES), (1200, 4), (200_000, 1)])
def test_steps_of_long_events_contain_fewer_frames(size: int, at_most: int) -> None:
    end = connection()
    event = frames.ServerEvent(1, json_objects.pack({"text": "x" * size}))
    steps = list(end.receive_in_steps(frames.encode([event] * 12)))
    assert [frame for step in steps for frame in step] == [event] * 12
    assert max(map(len, steps)) <= at_most


def test_frames_without_a_call_are_processed_in_steps_too() -> None:
    end = connection()
    steps = list(end.receive_in_steps(msgspec.msgpack.encode([[99, 1]] * 2000 + [None] * 10)))
    assert len(steps) >= 2010 // STEP_FRAMES
    assert not any(steps)


@pytest.mark.parametrize("junk", ["text", b"\xc1", msgspec.msgpack.encode([None]), msgspec.msgpack.encode([[1]])])
def test_junk_ends_the_connection_that_carries_it(junk: bytes | str) -> None:
    end = connection()
    for _ in range(MAX_JUNK):
        end.receive_message(junk)
    assert end.closing is None
    end.receive_message(junk)
    assert closed_with(end) is CloseCode.PROTOCOL_ERROR


def test_a_message_of_junk_is_not_decoded_to_its_end() -> None:
    end = connection()
    end.receive_message(msgspec.msgpack.encode([None] * 4000))
    assert closed_with(end) is CloseCode.PROTOCOL_ERROR
    assert end.counters.frames <= MAX_JUNK + 2 * STEP_FRAMES


def test_a_frame_nested_to_the_length_of_a_message_ends_the_connection() -> None:
    """Skipping it costs 0.2 s. A less deeply nested one ends only its call."""
    nested = b"\x93\x11\x07\x81\xa1a" + b"\x91" * 900_000 + b"\xc0"
    end = connection()
    steps = sum(1 for _ in end.receive_in_steps(b"\x91" + nested))
    assert closed_with(end) is CloseCode.PROTOCOL_ERROR
    assert steps == MAX_JUNK + 1


def test_occasional_junk_does_not_end_the_connection() -> None:
    end = connection()
    for second in range(1, 200):
        for _ in range(FORGIVEN_JUNK):
            end.receive_message("text")
        end.handle_timeout(second * HEARTBEAT_INTERVAL)
    assert end.closing is None


def test_too_many_frames_in_a_message_end_the_connection() -> None:
    end = connection()
    assert end.receive_message(b"\xdd\x00\x0f\x00\x00" + b"\xc0" * 0xF0000) == []
    assert closed_with(end) is CloseCode.TOO_BIG
    assert end.counters.frames == 1, "the hello"


def test_bad_frames_and_unknown_tags_of_calls_do_not_count_as_junk() -> None:
    end = connection()
    for _ in range(20):
        end.receive_message(msgspec.msgpack.encode([[6, 5, None], [99, 1, "from the future"]] * 50))
    assert end.closing is None
