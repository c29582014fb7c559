"""Distinguishes speech from silence by its energy above the noise of the room, without IO."""

import sys
from array import array
from collections import deque
from math import log10
from operator import mul

MARGIN_DB = 9.0
"""Speech is this much louder than the noise floor."""

QUIETEST_SPEECH = -50.0
"""dBFS; no sound below this level is speech, even in a silent room."""

LOUDEST_FLOOR = -42.0
"""dBFS; a steady sound above is speech and not noise."""

FLOOR_BLOCK_SECONDS = 0.5
FLOOR_BLOCKS = 6
"""The floor is the quietest moment of the last three seconds: speech has a pause in that time."""

ONSET_SECONDS = 0.06
"""Sound this long is speech; a click is not."""

PAUSE_SECONDS = 0.6
"""Silence this long ends speech."""

_STRIDE = 4
"""Every fourth sample measures the energy well enough."""


class EnergyGate:
    """Detects speech in one stream of 16-bit little-endian mono PCM. Push pieces of about 20 ms."""

    def __init__(self, rate: int) -> None:
        self.speaking = False
        self._rate = rate
        self._minima: deque[float] = deque(maxlen=FLOOR_BLOCKS)
        self._block_minimum = 0.0
        self._block_seconds = 0.0
        self._sound = 0.0  # seconds of uninterrupted sound
        self._silence = 0.0

    def push(self, pcm: bytes) -> bool:
        """Add a piece of audio; return whether it is part of speech."""
        seconds = len(pcm) / 2 / self._rate
        level = level_dbfs(pcm)
        if level >= max(QUIETEST_SPEECH, min(self._floor(level, seconds), LOUDEST_FLOOR) + MARGIN_DB):
            self._sound += seconds
            self._silence = 0.0
        else:
            self._sound = 0.0
            self._silence += seconds
        if self.speaking:
            self.speaking = self._silence < PAUSE_SECONDS
        else:
            self.speaking = self._sound >= ONSET_SECONDS
        return self.speaking

    def _floor(self, level: float, seconds: float) -> float:
        self._block_minimum = min(self._block_minimum, level)
        self._block_seconds += seconds
        floor = min(self._block_minimum, *self._minima) if self._minima else self._block_minimum
        if self._block_seconds >= FLOOR_BLOCK_SECONDS:
            self._minima.append(self._block_minimum)
            self._block_minimum = self._block_seconds = 0.0
        return floor


def level_dbfs(pcm: bytes) -> float:
    """Return the level of 16-bit little-endian PCM relative to a full-scale square wave, at least -100."""
    samples = array("h", pcm[: len(pcm) & ~1])
    if sys.byteorder == "big":
        samples.byteswap()
    some = samples[::_STRIDE]
    power = sum(map(mul, some, some)) / max(1, len(some))
    return 10 * log10(max(power, 0.1) / 32768**2)
