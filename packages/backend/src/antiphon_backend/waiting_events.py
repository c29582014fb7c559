"""The frames of a call, other than audio, that wait for its handler."""

from collections import deque

import msgspec

from antiphon_common import frames

MAX_EVENT_BYTES = 1 << 20
"""Bytes of client events of one call that wait for its handler, encoded; most handlers never look at them."""

MAX_EVENTS = 1024
"""The same for frames, since short ones take more memory than their bytes."""

Notification = (
    frames.SpeechStarted
    | frames.SpeechStopped
    | frames.TurnCommitted
    | frames.IdleTimeout
    | frames.Playing
    | frames.Played
    | frames.Interrupted
    | frames.SidebandAttached
    | frames.SidebandDetached
)
"""Frames that report speech, turns, playout and sidebands of a call."""

EventFrame = frames.ClientEvent | Notification


class WaitingEvents:
    """Event frames in order, at most `MAX_EVENTS` with `MAX_EVENT_BYTES`. `push` drops the oldest beyond."""

    __slots__ = ("_audio_before", "_bytes", "dropped", "frames")

    def __init__(self) -> None:
        self.frames: deque[EventFrame] = deque()
        self.dropped = 0
        self._audio_before: deque[int] = deque()
        self._bytes = 0

    def push(self, frame: EventFrame, audio_before: int) -> None:
        """Add a frame. `audio_before` counts the audio frames of the call that arrived before it."""
        if isinstance(frame, frames.ClientEvent):
            frame = msgspec.structs.replace(frame, event=frame.event.copy())  # else it would keep the whole message
        self.frames.append(frame)
        self._audio_before.append(audio_before)
        self._bytes += _event_bytes(frame)
        while self._bytes > MAX_EVENT_BYTES or len(self.frames) > MAX_EVENTS:
            self.pop()
            self.dropped += 1

    def is_due(self, audio_taken: int) -> bool:
        """Return whether the oldest frame arrived before all audio but the first `audio_taken` frames."""
        return bool(self.frames) and self._audio_before[0] <= audio_taken

    def pop(self) -> EventFrame:
        """Remove and return the oldest frame."""
        frame = self.frames.popleft()
        self._audio_before.popleft()
        self._bytes -= _event_bytes(frame)
        return frame


def _event_bytes(frame: EventFrame) -> int:
    return len(memoryview(frame.event)) if isinstance(frame, frames.ClientEvent) else 0
