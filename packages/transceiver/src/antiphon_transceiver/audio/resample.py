"""Changes the sample rate of PCM between 8 kHz and a whole multiple of it.

A filter is a convolution, which is a product of polynomials. A product of polynomials is a product of integers whose
digits are the coefficients, if the digits are wide enough. So one multiplication of two long integers filters a frame,
far faster than a loop.
"""

import math
from array import array
from functools import cache, lru_cache
from typing import Final

NARROW: Final = 8_000
"""The lower rate in Hz."""

MAX_TABLES: Final = 64
"""Tables kept, two for each packet length. Callers choose the lengths. Most use one or two, but 960 lengths exist, and
their tables would take 10 MB for each rate. To make a table takes microseconds."""

_TAPS_PER_SAMPLE: Final = 24
"""Length of the filter in samples of 8 kHz. It passes up to 3.4 kHz, the bandwidth of telephones. Its delay is half its
length, 1.5 ms."""

_CUTOFF: Final = 3_800
_SCALE: Final = 14
"""Fractional bits of the coefficients. With 16-bit samples and some overshoot, a sum still fits the 32 bits of a
digit."""

_DIGIT: Final = 32
_FLIP: Final = bytes(byte ^ 0x80 for byte in range(256))
"""Translates the high bytes of signed samples so that the samples become unsigned: each is 32,768 larger."""


class Resampler:
    """Converts a stream of PCM from `given` Hz to `wanted` Hz. Call `resample` for each piece of the stream, in order.

    One rate is 8,000, the other a multiple of it. PCM is mono, 16-bit little-endian. A piece of a higher rate must
    contain whole samples of 8 kHz. The filter's state passes from each piece to the next.
    """

    def __init__(self, given: int, wanted: int) -> None:
        self._up, self._down = wanted // NARROW, given // NARROW
        self._filter = _low_pass(max(self._up, self._down), self._up)
        self._rest = 0

    def resample(self, pcm: bytes) -> bytes:
        """Return `pcm` at the wanted rate, with the same duration."""
        if self._up == self._down or not pcm:
            return pcm
        step = 4 * self._up
        spread = bytearray(len(pcm) // 2 * step)
        spread[0::step] = pcm[0::2]
        spread[1::step] = pcm[1::2].translate(_FLIP)
        count = len(spread) // 4
        total = int.from_bytes(spread, "little") - _digits(1 << 15, count, self._up)
        half = _digits(1 << _DIGIT - 1, count, 1)
        total = total * self._filter + self._rest + half
        self._rest = total >> _DIGIT * count
        sums = array("i", ((total & (1 << _DIGIT * count) - 1) ^ half).to_bytes(4 * count, "little"))[:: self._down]
        limit = 1 << 15 + _SCALE
        if max(sums) >= limit or min(sums) < -limit:
            sums = array("i", (min(max(value, -limit), limit - 1) for value in sums))
        return array("h", [value >> _SCALE for value in sums]).tobytes()


@lru_cache(MAX_TABLES)
def _digits(digit: int, count: int, step: int) -> int:
    """Return the number of `count` digits in which every `step`-th digit is `digit`, and the others are 0."""
    return int.from_bytes((digit.to_bytes(4, "little") + bytes(4 * (step - 1))) * (count // step), "little")


@cache
def _low_pass(factor: int, gain: int) -> int:
    """Return a low-pass filter at `factor` times 8 kHz, a sinc with a Hamming window, as the digits of a number."""
    length = _TAPS_PER_SAMPLE * factor
    cutoff = 2 * _CUTOFF / (NARROW * factor)
    taps = []
    for index in range(length + 1):
        way = index / length
        window = 0.54 - 0.46 * math.cos(math.tau * way)
        turn = math.pi * cutoff * (index - length / 2)
        taps.append(window * (math.sin(turn) / turn if turn else 1.0))
    scale = gain * (1 << _SCALE) / sum(taps)
    return sum(round(tap * scale) << _DIGIT * index for index, tap in enumerate(taps))
