import math
import tracemalloc
from array import array
from itertools import pairwise

import pytest

from antiphon_transceiver.audio.resample import Resampler

RATES = (16_000, 24_000, 48_000)


def tone(frequency: float, rate: int, seconds: float = 0.4, amplitude: int = 8000) -> bytes:
    count = round(rate * seconds)
    return array("h", (round(amplitude * math.sin(math.tau * frequency * i / rate)) for i in range(count))).tobytes()


def resample(pcm: bytes, given: int, wanted: int, milliseconds: int = 20) -> bytes:
    resampler, size = Resampler(given, wanted), given * milliseconds // 1000 * 2
    return b"".join(resampler.resample(pcm[start : start + size]) for start in range(0, len(pcm), size))


def loudness(pcm: bytes) -> float:
    """Return the root mean square of the second half, after the filter has settled."""
    heard = array("h", pcm)[len(pcm) // 4 :]
    return math.sqrt(sum(sample * sample for sample in heard) / len(heard))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("frequency", [200, 1000, 3300])
def test_the_telephone_band_passes_in_both_directions(rate: int, frequency: int) -> None:
    wide = resample(tone(frequency, 8000), 8000, rate)
    assert len(wide) == len(tone(frequency, rate))
    assert loudness(wide) == pytest.approx(8000 / math.sqrt(2), rel=0.05)
    narrow = resample(wide, rate, 8000)
    assert loudness(narrow) == pytest.approx(8000 / math.sqrt(2), rel=0.05)


@pytest.mark.parametrize("rate", RATES)
def test_frequencies_that_would_alias_are_removed(rate: int) -> None:
    assert loudness(resample(tone(5000, rate), rate, 8000)) < 20


@pytest.mark.parametrize("milliseconds", [1, 10, 60])
def test_chunks_of_any_length_join_without_clicks(milliseconds: int) -> None:
    pcm = tone(700, 8000)
    assert resample(pcm, 8000, 24_000, milliseconds) == resample(pcm, 8000, 24_000, 400)
    wide = tone(700, 24_000)
    assert resample(wide, 24_000, 8000, milliseconds) == resample(wide, 24_000, 8000, 400)


def test_overshoot_is_clipped_and_does_not_wrap() -> None:
    square = array("h", ([32767] * 8 + [-32768] * 8) * 100).tobytes()
    heard = array("h", resample(square, 8000, 48_000))
    assert (max(heard), min(heard)) == (32767, -32768)
    steps = [abs(second - first) for first, second in pairwise(heard)]
    assert max(steps) < 20_000


def test_audio_of_the_same_rate_is_unchanged() -> None:
    assert Resampler(8000, 8000).resample(b"pcm!") == b"pcm!"


@pytest.mark.parametrize("rate", RATES)
def test_chunks_of_single_samples_join_without_clicks(rate: int) -> None:
    pcm, resampler = tone(700, 8000), Resampler(8000, rate)
    pieces = [resampler.resample(pcm[start : start + 2]) for start in range(0, 800, 2)]
    assert b"".join(pieces) == Resampler(8000, rate).resample(pcm[:800])
    assert resampler.resample(b"") == b""


def test_memory_does_not_grow_with_the_variety_of_packet_lengths() -> None:
    resampler = Resampler(8000, 48_000)
    tracemalloc.start()
    try:
        for samples in range(1, 961):
            resampler.resample(bytes(2 * samples))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 4_000_000
