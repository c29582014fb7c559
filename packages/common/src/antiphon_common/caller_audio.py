"""A bounded queue of the caller's audio for a slow receiver. The oldest frames are dropped first."""

from collections import deque

from antiphon_common.frames import Audio

MAX_WAITING_SECONDS = 3
"""Audio that is still useful late: speech before a backend was ready, or while it paused for a moment."""

MAX_WAITING_FRAMES = 1200
"""The same in frames: three seconds of the shortest Opus packets."""


class CallerAudio:
    """Frames of one call in order, at most `MAX_WAITING_SECONDS` long. `push` drops older ones; `rate` is in Hz."""

    __slots__ = ("_limit", "dropped", "frames")

    def __init__(self, rate: int) -> None:
        self.frames: deque[Audio] = deque()
        self.dropped = 0
        self._limit = MAX_WAITING_SECONDS * rate

    def push(self, frame: Audio) -> int:
        """Add a frame; return how many were dropped for it."""
        frames = self.frames
        before = self.dropped
        while frames and (frame.position - frames[0].position >= self._limit or len(frames) >= MAX_WAITING_FRAMES):
            frames.popleft()
            self.dropped += 1
        frames.append(frame)
        return self.dropped - before
