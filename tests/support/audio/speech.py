"""Test signal with the traits of speech: voiced syllables with gliding pitch, hisses, pauses. Pure Python, seeded."""

import math
import random
from array import array
from operator import mul

_TABLE_SIZE = 1024
_VOWELS = ((700, 1200, 2500), (300, 2300, 3000), (450, 800, 2500), (550, 1800, 2500), (350, 1300, 2200))
"""Formants in Hz."""


def speech(seconds: float, rate: int = 24_000, seed: int = 1) -> bytes:
    """Return mono 16-bit little-endian PCM. The same arguments give the same bytes."""
    chance = random.Random(seed)
    total = round(seconds * rate)
    samples = array("h")
    until_pause = 4
    while len(samples) < total:
        samples.extend(_hiss(chance, rate, chance.uniform(0.02, 0.06)))
        samples.extend(_syllable(chance, rate, chance.uniform(0.12, 0.28)))
        until_pause -= 1
        if not until_pause:
            until_pause = chance.randint(3, 8)
            samples.extend(_noise(chance, round(chance.uniform(0.1, 0.35) * rate), 8))
    return samples[:total].tobytes()


def correlation(reference: bytes, received: bytes, max_lag: int, step: int = 1) -> tuple[float, int]:
    """Return the peak of the normalised cross-correlation of two PCM signals, and its lag in samples.

    `received` is late by up to `max_lag` samples. Lags are tried in steps of `step`.
    """
    clean, found = array("h", reference), array("h", received)
    best = (-1.0, 0)
    for lag in range(0, max_lag + 1, step):
        late = found[lag : lag + len(clean)]
        early = clean[: len(late)]
        power = math.sqrt(sum(map(mul, early, early)) * sum(map(mul, late, late)))
        if power:
            best = max(best, (sum(map(mul, early, late)) / power, lag))
    return best


def _syllable(chance: random.Random, rate: int, seconds: float) -> "array[int]":
    pitch, glide = chance.uniform(95, 190), chance.uniform(-40, 40)
    table = _pitch_period(chance.choice(_VOWELS), pitch)
    count = round(seconds * rate)
    phase, samples = 0.0, array("h")
    for index in range(count):
        way = index / count
        phase += (pitch + glide * way) * _TABLE_SIZE / rate
        samples.append(int(table[int(phase) % _TABLE_SIZE] * math.sin(math.pi * way)))
    return samples


def _pitch_period(formants: tuple[int, int, int], pitch: float) -> list[float]:
    """Return one pitch period of voiced speech: harmonics up to 3.5 kHz, strong near the formants."""
    harmonics = range(1, int(3500 / pitch) + 1)
    weights = [sum(1 / (1 + ((number * pitch - formant) / 120) ** 2) for formant in formants) for number in harmonics]
    period = [
        sum(
            weight * math.sin(math.tau * number * point / _TABLE_SIZE + number * number)
            for number, weight in zip(harmonics, weights, strict=True)
        )
        for point in range(_TABLE_SIZE)
    ]
    peak = max(map(abs, period))
    return [14_000 * value / peak for value in period]


def _hiss(chance: random.Random, rate: int, seconds: float) -> "array[int]":
    return _noise(chance, round(seconds * rate), 900)


def _noise(chance: random.Random, count: int, amplitude: float) -> "array[int]":
    return array("h", (int(chance.uniform(-amplitude, amplitude)) for _ in range(count)))
