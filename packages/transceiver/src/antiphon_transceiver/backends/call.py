"""One call as its backend link sees it: what is allowed when, credit, and the caller's audio that waits."""

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol

from antiphon_common import frames
from antiphon_common.caller_audio import CallerAudio
from antiphon_common.errors import DecodeError
from antiphon_common.formats import TICKS_PER_MS, AudioFormat
from antiphon_common.frame_connection import ConnectionCounters

InboundFrame = (
    frames.Accepted
    | frames.Refused
    | frames.Audio
    | frames.Clear
    | frames.ResponseStarted
    | frames.ResponseEnded
    | frames.HangUp
    | frames.Ended
    | frames.BadFrame
)
"""What a call hears of its backend. `Refused`, `Ended` and `BadFrame` are the last it hears."""

Sink = Callable[[InboundFrame, float], None]

CREDIT_STEP_MS = 100
"""Credit is given back in steps of at least this much: at most ten frames a second and call."""

ACCEPT_TIMEOUT = 10.0
"""Seconds a backend has to accept or refuse a call."""

_CREDIT_TICKS = frames.CREDIT_MS * TICKS_PER_MS
_STEP_TICKS = CREDIT_STEP_MS * TICKS_PER_MS
_MAX_AUDIO_TICKS = frames.MAX_AUDIO_MS * TICKS_PER_MS


class CallState(Enum):
    STARTING = auto()
    ACCEPTED = auto()
    HANGING_UP = auto()
    OVER = auto()


ALLOWED: dict[CallState, frozenset[type]] = {
    CallState.STARTING: frozenset((frames.Accepted, frames.Refused, frames.Ended)),
    CallState.ACCEPTED: frozenset(
        (
            frames.Audio,
            frames.ResponseStarted,
            frames.ResponseEnded,
            frames.Clear,
            frames.HangUp,
            frames.Ended,
        )
    ),
    CallState.HANGING_UP: frozenset((frames.Clear, frames.Ended)),
    CallState.OVER: frozenset(),
}
"""What a backend may say of a call; anything else is a bad frame and ends it."""

NEXT: dict[type, CallState] = {
    frames.Accepted: CallState.ACCEPTED,
    frames.HangUp: CallState.HANGING_UP,
    frames.Refused: CallState.OVER,
    frames.Ended: CallState.OVER,
}
"""The frames that move a call on."""


class LinkCounters(ConnectionCounters):
    """What went wrong on the connections to backends, over all their calls."""

    __slots__ = ("audio_dropped", "calls_failed", "late_frames", "stale_frames")

    def __init__(self) -> None:
        super().__init__()
        self.audio_dropped = 0
        """Frames of callers' audio that the backend was too slow for."""
        self.calls_failed = 0
        """Calls ended over a bad frame, an overrun, or no answer."""
        self.late_frames = 0
        """Frames of audio that came after their response was cleared."""
        self.stale_frames = 0
        """Frames about calls that were over."""


class Carrier(Protocol):
    """What a call needs of the connection that carries it."""

    counters: LinkCounters

    def send(self, frame: frames.Frame) -> None: ...

    def has_audio(self, call: "BackendCall") -> None:
        """Note that audio of an accepted call waits."""

    def forget(self, call: "BackendCall") -> None:
        """Free the place of a call that is over."""


class BackendCall:
    """The transceiver's end of one call. Nothing here blocks; `BackendPool.flush` sends what was queued.

    Once the call is over, from either side, every method does nothing.
    """

    __slots__ = (
        "_audio_format",
        "_carrier",
        "_cleared",
        "_credit",
        "_open",
        "_returned",
        "_waiting",
        "call_id",
        "deadline",
        "deaf",
        "format",
        "number",
        "sink",
        "state",
    )

    def __init__(
        self, carrier: Carrier, number: int, call_id: str, audio_format: AudioFormat, sink: Sink, now: float
    ) -> None:
        self.number = number
        self.call_id = call_id
        self.format = audio_format.name
        self.sink = sink
        self.state = CallState.STARTING
        self.deadline = now + ACCEPT_TIMEOUT
        self.deaf = False
        """Whether the session ended the call, after which its sink hears nothing."""
        self._carrier = carrier
        self._audio_format = audio_format
        self._waiting = CallerAudio(audio_format.rate)
        self._credit = 0  # ticks the backend may still send
        self._returned = 0  # ticks played or dropped, and not yet given back
        self._open = 0  # the latest response that was started
        self._cleared = 0  # the latest response that was cleared, with those before it

    # From the session

    def send_audio(self, data: bytes, position: int, origin: int = frames.Origin.RECEIVED) -> None:
        """Queue a stretch of the caller's audio; `position` is the index of its first sample in the call's format."""
        if self.state is CallState.OVER:
            return
        if not self._waiting.frames and self.state is not CallState.STARTING:
            self._carrier.has_audio(self)
        dropped = self._waiting.push(frames.Audio(self.number, data, position, origin))
        self._carrier.counters.audio_dropped += dropped

    def grant(self, milliseconds: int) -> None:
        """Give back credit for audio that was played or dropped."""
        self._give_back(milliseconds * TICKS_PER_MS)

    def interrupted(self, response: int, heard_ms: int) -> None:
        """Tell that a response, and those before it, will not be played further."""
        if self.state is not CallState.OVER:
            self._cleared = max(self._cleared, response)
            self._carrier.send(frames.Interrupted(self.number, response, heard_ms))

    def end(self, reason: str) -> None:
        """End the call; its sink hears nothing any more."""
        if self.state is not CallState.OVER:
            self._carrier.send(frames.Ended(self.number, reason))
            self.deaf = True
            self.close()

    # From the link

    def receive(self, frame: InboundFrame) -> InboundFrame | None:
        """Take a frame of the backend; return what the sink is to hear of it. Raises DecodeError."""
        kind = type(frame)
        if kind not in ALLOWED[self.state]:
            raise DecodeError(f"{kind.__name__} while the call is {self.state.name.lower().replace('_', ' ')}")
        heard: InboundFrame | None = frame
        match frame:
            case frames.Audio():
                heard = frame if self._take_audio(frame) else None
            case frames.ResponseStarted():
                self._start_response(frame.response)
            case frames.ResponseEnded():
                self._check_started(frame.response)
                heard = frame if frame.response > self._cleared else None
            case frames.Clear():
                self._check_started(frame.response)
                self._cleared = max(self._cleared, frame.response)
            case frames.Accepted():
                self._accept()
        self.state = NEXT.get(kind, self.state)
        return heard

    def take_waiting(self) -> deque[frames.Audio]:
        """Hand over the caller's audio that waits."""
        waiting, self._waiting.frames = self._waiting.frames, deque()
        return waiting

    def close(self) -> None:
        """The call is over: let go of everything."""
        self.state = CallState.OVER
        self._waiting.frames.clear()
        self._carrier.forget(self)

    def _accept(self) -> None:
        self._credit = _CREDIT_TICKS
        self._carrier.send(frames.Credit(self.number, frames.CREDIT_MS))
        if self._waiting.frames:
            self._carrier.has_audio(self)

    def _start_response(self, response: int) -> None:
        if response <= self._open:
            raise DecodeError(f"response {response} started after response {self._open}")
        self._open = response

    def _check_started(self, response: int) -> None:
        if not 0 < response <= self._open:
            raise DecodeError(f"response {response} was never started")

    def _take_audio(self, frame: frames.Audio) -> bool:
        """Account for audio of the backend; return whether it is to be played."""
        ticks = self._audio_format.duration(frame.data)
        if ticks > _MAX_AUDIO_TICKS:
            raise DecodeError(f"{ticks // TICKS_PER_MS} ms of audio in one frame")
        if ticks > self._credit:
            raise DecodeError(f"overrun: {ticks // TICKS_PER_MS} ms of audio beyond the credit")
        self._credit -= ticks
        if 0 < frame.response <= self._cleared:
            self._carrier.counters.late_frames += 1
            self._give_back(ticks)
            return False
        if not frame.response or frame.response != self._open:
            raise DecodeError(f"audio of response {frame.response} while response {self._open} is open")
        return True

    def _give_back(self, ticks: int) -> None:
        # Never more than the whole credit is out, whatever is said to have been played.
        self._returned = min(self._returned + ticks, _CREDIT_TICKS - self._credit)
        if self._returned >= _STEP_TICKS and self.state is not CallState.OVER:
            milliseconds, self._returned = divmod(self._returned, TICKS_PER_MS)
            self._credit += milliseconds * TICKS_PER_MS
            self._carrier.send(frames.Credit(self.number, milliseconds))
