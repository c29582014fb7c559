import pytest

from antiphon_common.caller_audio import MAX_WAITING_FRAMES, CallerAudio
from antiphon_common.frames import Audio


@pytest.mark.parametrize("rate", [16000, 24000, 48000])
def test_three_seconds_are_held_and_the_oldest_frame_is_dropped(rate: int) -> None:
    waiting = CallerAudio(rate)
    step = rate // 50
    dropped = sum(waiting.push(Audio(1, b"", position)) for position in range(0, 5 * rate, step))
    assert dropped == waiting.dropped == 100
    assert [frame.position for frame in waiting.frames] == list(range(2 * rate, 5 * rate, step))


def test_frames_before_a_long_gap_are_dropped() -> None:
    waiting = CallerAudio(24000)
    for position in (0, 480, 960, 24000 * 60):
        waiting.push(Audio(1, b"", position))
    assert [frame.position for frame in waiting.frames] == [24000 * 60]


def test_frames_of_one_position_are_bounded_in_number() -> None:
    waiting = CallerAudio(48000)
    for _ in range(2 * MAX_WAITING_FRAMES):
        waiting.push(Audio(1, b"", 0))
    assert len(waiting.frames) == MAX_WAITING_FRAMES
