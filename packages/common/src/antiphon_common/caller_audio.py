"""A bounded queue of the caller's audio for a slow receiver. The oldest frames are dropped first."""

from collections import deque

from antiphon_common.frames import Audio

MAX_WAITING_SECONDS = 3
"""Longest audio that waits: the speech while a backend was not ready, or paused for a moment."""

MAX_WAITING_FRAMES = 1200
"""Largest number of frames that wait: three seconds of the shortest Opus packets."""


class CallerAudio:
    """The frames of one call that wait for a receiver. `push` each new one, and take them from the left of `frames`.

    They last at most `MAX_WAITING_SECONDS`; older frames are dropped. `rate` is that of the format in Hz.
    """

    __slots__ = ("_limit", "dropped", "frames")

    def __init__(self, rate: int) -> None:
        self.frames: deque[Audio] = deque()
        self.dropped = 0
        self._limit = MAX_WAITING_SECONDS * rate

    def push(self, frame: Audio) -> int:
        """Add a frame. Return how many older ones were dropped."""
        frames = self.frames
        before = self.dropped
        while frames and (frame.position - frames[0].position >= self._limit or len(frames) >= MAX_WAITING_FRAMES):
            frames.popleft()
            self.dropped += 1
        frames.append(frame)
        return self.dropped - before
