import math
import random
from array import array

import pytest

from antiphon_backend.gate import ONSET_SECONDS, PAUSE_SECONDS, EnergyGate, level_dbfs

RATE = 16000
FRAME_SECONDS = 0.02


def tone(level: float, seconds: float, noise: random.Random | None = None, floor: float = -100.0) -> list[bytes]:
    """Return 20 ms frames of a 200 Hz tone at `level` dBFS over white noise at `floor` dBFS."""
    amplitude = 32768 * 10 ** (level / 20) * math.sqrt(2)
    spread = 32768 * 10 ** (floor / 20)
    samples = array("h")
    for index in range(round(seconds * RATE)):
        value = amplitude * math.sin(2 * math.pi * 200 * index / RATE)
        value += noise.gauss(0, spread) if noise else 0
        samples.append(max(-32768, min(32767, round(value))))
    step = round(RATE * FRAME_SECONDS)
    return [samples[start : start + step].tobytes() for start in range(0, len(samples), step)]


def run(gate: EnergyGate, pieces: list[bytes]) -> float | None:
    """Push frames. Return the seconds after which the gate changed, or None."""
    before = gate.speaking
    changed = None
    for index, piece in enumerate(pieces):
        if gate.push(piece) != before and changed is None:
            changed = (index + 1) * FRAME_SECONDS
    return changed


@pytest.mark.parametrize("floor", [-90.0, -60.0, -45.0])
def test_speech_is_detected_in_quiet_and_in_noise(floor: float) -> None:
    noise = random.Random(f"gate {floor}")
    gate = EnergyGate(RATE)
    assert run(gate, tone(-100, 3, noise, floor)) is None
    started = run(gate, tone(-20, 1, noise, floor))
    assert started == pytest.approx(ONSET_SECONDS, abs=0.001)
    ended = run(gate, tone(-100, 2, noise, floor))
    assert ended == pytest.approx(PAUSE_SECONDS, abs=0.021)


def test_noise_from_the_start_is_not_speech() -> None:
    noise = random.Random("gate from the start")
    assert run(EnergyGate(RATE), tone(-100, 4, noise, -44)) is None


def test_noise_that_grows_louder_is_speech_for_three_seconds_at_most() -> None:
    noise = random.Random("gate fan")
    gate = EnergyGate(RATE)
    run(gate, tone(-100, 3, noise, -70))
    run(gate, tone(-100, 5, noise, -45))
    assert not gate.speaking


def test_clicks_and_gaps_between_words_do_not_change_the_gate() -> None:
    gate = EnergyGate(RATE)
    run(gate, tone(-100, 1))
    assert run(gate, tone(-10, 0.02) + tone(-100, 0.5)) is None
    run(gate, tone(-20, 0.5))
    assert gate.speaking
    assert run(gate, (tone(-100, 0.4) + tone(-20, 0.2)) * 3) is None


@pytest.mark.parametrize(("pcm", "level"), [(b"", -100), (bytes(640), -100), (b"\xff\x7f\x00\x80" * 320, 0)])
def test_levels_are_relative_to_full_scale(pcm: bytes, level: float) -> None:
    assert level_dbfs(pcm) == pytest.approx(level, abs=6)
