"""The turns that echo detects, and the end of its playback when the caller speaks."""

from array import array

import pytest

from antiphon_backend.echo import LEAD_SECONDS, MAX_TURN_SECONDS, TAIL_SECONDS, Turns, echo
from antiphon_backend.gate import ONSET_SECONDS, PAUSE_SECONDS
from antiphon_common import frames
from antiphon_common.shell.supervise import Runtime
from support.fakes.backend_calls import serving
from support.fakes.frame_end import transceiver_end

RATE = 24000
FRAME = 480
LOUD = array("h", [8000, -8000] * (FRAME // 2)).tobytes()
QUIET = bytes(2 * FRAME)


def seconds(count: float) -> int:
    """Return the number of 20 ms frames in `seconds`."""
    return round(count * 50)


def test_a_turn_contains_the_speech_with_a_margin() -> None:
    turns = Turns(RATE)
    assert all(turns.push(QUIET) is None for _ in range(seconds(2)))
    assert all(turns.push(LOUD) is None for _ in range(seconds(1)))
    recording = turns.speaking
    ended = [turn for _ in range(seconds(PAUSE_SECONDS)) if (turn := turns.push(QUIET))]
    assert len(ended) == 1
    assert (recording, turns.speaking) == (True, False)
    lead = LEAD_SECONDS - ONSET_SECONDS
    assert len(ended[0]) / 2 / RATE == pytest.approx(lead + 1 + TAIL_SECONDS, abs=0.021)
    assert ended[0].count(LOUD) == seconds(1)


def test_the_length_of_a_turn_is_bounded() -> None:
    turns = Turns(RATE)
    ended = [turn for _ in range(seconds(MAX_TURN_SECONDS + 1)) if (turn := turns.push(LOUD))]
    assert len(ended) == 1
    assert len(ended[0]) / 2 / RATE == pytest.approx(MAX_TURN_SECONDS, abs=0.1)


@pytest.mark.parametrize("runtime", ["trio", "asyncio"])
async def test_a_turn_is_played_back_and_cleared_when_the_caller_speaks_again(runtime: Runtime) -> None:
    async with serving(echo, runtime=runtime) as url, transceiver_end(url) as end:
        await end.send(frames.Started(1, "rtc_1", "acme", "pcm16/24000"))
        await end.receive(frames.Accepted)
        await end.send(frames.Credit(1, 500))
        said = [QUIET] * seconds(1) + [LOUD] * seconds(1) + [QUIET] * seconds(PAUSE_SECONDS)
        await end.send(*[frames.Audio(1, data, index * FRAME) for index, data in enumerate(said)])
        assert await end.receive(frames.ResponseStarted) == [frames.ResponseStarted(1, 1)]
        back = await end.receive(frames.Audio, 25)
        assert back[-1].data == LOUD
        await end.send(*[frames.Audio(1, LOUD, index * FRAME) for index in range(100, 110)])
        assert await end.receive(frames.Clear) == [frames.Clear(1, 1)]
        await end.send(frames.Interrupted(1, 1, 500), frames.Credit(1, 500))
        await end.send(*[frames.Audio(1, QUIET, index * FRAME) for index in range(110, 150)])
        assert await end.receive(frames.ResponseStarted) == [frames.ResponseStarted(1, 2)]
        assert {frame.response for frame in await end.receive(frames.Audio, 20)} == {2}
