"""How well speech survived, by two measures: STOI and wideband PESQ."""

from typing import NamedTuple

import numpy as np
from pesq import pesq
from pystoi import stoi

from support.audio.correlation import resample
from support.audio.lossy_speech import RATE, Samples

SCORED_RATE = 16_000
LONGEST_LAG = RATE // 20


class Score(NamedTuple):
    stoi: float
    pesq: float


def find_lag(said: Samples, heard: Samples) -> int:
    """Return by how many samples a codec delays what it carries."""
    points = 2 * len(said)
    product = np.fft.rfft(heard, points) * np.conj(np.fft.rfft(said, points))
    return int(np.argmax(np.fft.irfft(product, points)[:LONGEST_LAG]))


def score(said: Samples, heard: Samples, lag: int) -> Score:
    """Compare what was heard with what was said."""
    heard = heard[lag:]
    reference, degraded = (resample(sound, RATE, SCORED_RATE) for sound in (said[: len(heard)], heard))
    return Score(float(stoi(reference, degraded, SCORED_RATE)), float(pesq(SCORED_RATE, reference, degraded, "wb")))
