"""One call at a backend, without IO: its states, credit, and the caller's audio and events that wait.

    STARTING → ACCEPTED → HANGING_UP → OVER        LOST → STARTING: resumed on another connection

`ALLOWED` and `NEXT` are the table: the frames that a backend may send in each state, and those that move the call on.
"""

from collections import deque
from collections.abc import Mapping
from enum import Enum, auto
from itertools import chain
from typing import Any, Protocol

import msgspec

from antiphon_common import frames, json_objects
from antiphon_common.caller_audio import CallerAudio
from antiphon_common.errors import AntiphonError, DecodeError
from antiphon_common.formats import MAX_PACKET_BYTES, TICKS_PER_MS, AudioFormat
from antiphon_common.frame_connection import AUDIO_OVERHEAD, ConnectionCounters
from antiphon_transceiver.audio.playout import CREDIT_STEP_MS

InboundFrame = (
    frames.Accepted
    | frames.Refused
    | frames.Audio
    | frames.Clear
    | frames.ResponseStarted
    | frames.ResponseEnded
    | frames.ServerEvent
    | frames.Transcript
    | frames.Configure
    | frames.HangUp
    | frames.Ended
    | frames.BadFrame
)
"""The frames that a call receives from its backend. `Refused`, `Ended` and `BadFrame` are the last."""

SizedFrame = tuple[frames.Audio | frames.ClientEvent, int]
"""A frame for the backend, and its approximate size in bytes."""

ACCEPT_TIMEOUT = 10.0
"""Seconds a backend has to accept or refuse a call."""

RESUME_SECONDS = 10.0
"""Seconds from the loss of a connection until a call must be accepted elsewhere: an acceptable silence for a caller,
and enough for a process to start again. After half of them without an answer, the call tries another address."""

MAX_WAITING_EVENT_BYTES = 4 * frames.MAX_EVENT_SIZE
"""Bytes of one client's events that wait for a backend, encoded; more are refused."""

MAX_WAITING_EVENTS = 1024
"""The same for events, since short ones take more memory than their bytes."""

EVENT_OVERHEAD = 7
"""Bytes a frame has around its event, at most."""

_CREDIT_TICKS = frames.CREDIT_MS * TICKS_PER_MS
_STEP_TICKS = CREDIT_STEP_MS * TICKS_PER_MS
_MAX_AUDIO_TICKS = frames.MAX_AUDIO_MS * TICKS_PER_MS


class BackendError(AntiphonError):
    """A backend cannot take a call or an event. Its subclasses are the reasons."""


class EventRefused(BackendError):
    """An event is too long, cannot be encoded, or too many of them wait already."""


class BackendCallState(Enum):
    """States of a call. A call that is `LOST` has no connection: it awaits reassignment to another."""

    STARTING = auto()
    ACCEPTED = auto()
    HANGING_UP = auto()
    LOST = auto()
    OVER = auto()


ALLOWED: dict[BackendCallState, frozenset[type]] = {
    BackendCallState.STARTING: frozenset((frames.Accepted, frames.Refused, frames.Ended)),
    BackendCallState.ACCEPTED: frozenset(
        (
            frames.Audio,
            frames.ResponseStarted,
            frames.ResponseEnded,
            frames.Clear,
            frames.ServerEvent,
            frames.Transcript,
            frames.Configure,
            frames.HangUp,
            frames.Ended,
        )
    ),
    BackendCallState.HANGING_UP: frozenset(
        (frames.Clear, frames.ServerEvent, frames.Transcript, frames.Configure, frames.Ended)
    ),
    BackendCallState.LOST: frozenset(),
    BackendCallState.OVER: frozenset(),
}
"""The frames that a backend may send in each state. Any other is a bad frame and ends the call."""

NEXT: dict[type, BackendCallState] = {
    frames.Accepted: BackendCallState.ACCEPTED,
    frames.HangUp: BackendCallState.HANGING_UP,
    frames.Refused: BackendCallState.OVER,
    frames.Ended: BackendCallState.OVER,
}
"""The state after each frame that changes it."""


class BackendCounters(ConnectionCounters):
    """Counts of failures on the connections to backends. One is shared by all connections of a pool."""

    __slots__ = (
        "audio_dropped",
        "calls_failed",
        "calls_lost",
        "calls_resumed",
        "calls_retried",
        "events_refused",
        "late_frames",
        "stale_frames",
    )

    def __init__(self) -> None:
        super().__init__()
        self.audio_dropped = 0
        """Frames of callers' audio that the backend was too slow for."""
        self.calls_failed = 0
        """Calls ended over a bad frame, an overrun, or no answer."""
        self.calls_lost = 0
        """Calls ended because no other connection took them in time."""
        self.calls_resumed = 0
        """Calls accepted again after their connection was lost."""
        self.calls_retried = 0
        """Calls started elsewhere because a backend was full."""
        self.events_refused = 0
        """Events of clients that were too long, or too many."""
        self.late_frames = 0
        """Frames of audio that came after their response was cleared."""
        self.stale_frames = 0
        """Frames about calls that were over."""


class Carrier(Protocol):
    """The connection that carries a call. A call sends frames through it and reports to it."""

    counters: BackendCounters

    def send(self, frame: frames.Frame) -> None: ...

    def has_waiting(self, call: "BackendCall") -> None:
        """Note that audio or events of an accepted call wait."""

    def forget(self, call: "BackendCall") -> None:
        """Free the place of a call that is over."""


class BackendCall:
    """The transceiver's end of one call. Nothing here blocks; `BackendPool.flush` sends what was queued.

    Once the call is over, from either side, every method does nothing. A call outlives its connection: it is resumed on
    another. Each connection numbers responses from 1; the numbers that the session sees run on.
    """

    __slots__ = (
        "_audio_format",
        "_carrier",
        "_cleared",
        "_credit",
        "_event_bytes",
        "_events",
        "_last_audio",
        "_open",
        "_responses_before",
        "_returned",
        "_speaking",
        "_started",
        "_waiting",
        "accepted_at",
        "call_id",
        "deadline",
        "detached",
        "format",
        "give_up_at",
        "number",
        "state",
        "tries",
    )

    def __init__(self, carrier: Carrier, started: frames.Started, now: float) -> None:
        self.call_id = started.call_id
        self.format = started.format
        self.accepted_at: float | None = None
        """When a backend last accepted the call."""
        self.give_up_at: float | None = None
        """After the loss of a connection: the time by which another must have accepted the call."""
        self.tries = 0
        """Starts of the call since it last ran well."""
        self.detached = False
        """Whether the session ended the call. No frame is delivered after that."""
        self._audio_format = AudioFormat.parse(started.format)
        self._started = started
        self._waiting = CallerAudio(self._audio_format.rate)
        self._last_audio: frames.Audio | None = None
        self._events: deque[tuple[msgspec.Raw, int]] = deque()
        self._event_bytes = 0
        self._credit = 0  # ticks the backend may still send
        self._returned = _CREDIT_TICKS  # ticks played or dropped, and not yet granted again
        self._responses_before = 0  # on connections before this one; numbers below are those of this connection
        self._open = 0  # the latest response that was started
        self._speaking = False  # whether more audio of it may come
        self._cleared = 0  # the latest response that was cleared, with those before it
        self.start(carrier, started.call, now)

    # From the session

    def send_audio(self, data: bytes, position: int, status: int = frames.FrameStatus.RECEIVED) -> None:
        """Queue a stretch of the caller's audio; `position` is the index of its first sample in the call's format."""
        if self.state is BackendCallState.OVER:
            return
        self._announce()
        frame = self._last_audio = frames.Audio(self.number, data, position, status)
        self._carrier.counters.audio_dropped += self._waiting.push(frame)

    def send_event(self, event: msgspec.Raw | Mapping[str, Any]) -> None:
        """Queue an event of the client, a JSON object, encoded by `json_objects` or not. Raises `EventRefused`; the
        call goes on all the same."""
        if self.state is BackendCallState.OVER:
            return
        try:
            packed = event if isinstance(event, msgspec.Raw) else json_objects.pack(event)
        except ValueError as error:
            self._carrier.counters.events_refused += 1
            raise EventRefused(f"the event {error}") from None
        size = len(memoryview(packed)) + EVENT_OVERHEAD
        if size > frames.MAX_EVENT_SIZE or not self._has_room(size):
            self._carrier.counters.events_refused += 1
            waiting = f"{len(self._events)} events with {self._event_bytes} bytes wait"
            raise EventRefused(f"an event of {size} bytes, where {waiting}")
        self._announce()
        self._events.append((packed, size))
        self._event_bytes += size

    def grant(self, milliseconds: int) -> None:
        """Return credit for audio that was played or dropped."""
        self._return_credit(milliseconds * TICKS_PER_MS)

    def interrupted(self, response: int, heard_ms: int) -> None:
        """Report that a response, and those before it, are not played further; `heard_ms` of it were played."""
        response -= self._responses_before
        if response >= 0 and self.state in (BackendCallState.ACCEPTED, BackendCallState.HANGING_UP):
            self._cleared = max(self._cleared, response)
            self._carrier.send(frames.Interrupted(self.number, response, heard_ms))

    def end(self, reason: str) -> None:
        """End the call. No frame of it is delivered any more."""
        self.detached = True
        if self.state is not BackendCallState.OVER:
            self._carrier.send(frames.Ended(self.number, reason))
            self.close()

    # From the connection

    def start(self, carrier: Carrier, number: int, now: float) -> frames.Started:
        """Begin, or resume, on a connection; return the frame to send."""
        self._carrier = carrier
        self.number = number
        self.state = BackendCallState.STARTING
        self.deadline = now + ACCEPT_TIMEOUT
        if self.give_up_at is not None:
            self.deadline = min(now + RESUME_SECONDS / 2, self.give_up_at)
        self.tries += 1
        waiting = self._waiting
        waiting.frames = deque(msgspec.structs.replace(frame, call=number) for frame in waiting.frames)
        return msgspec.structs.replace(self._started, call=number, resumed_ms=self._resumed_ms())

    def receive(self, frame: InboundFrame, now: float) -> InboundFrame | None:
        """Handle a frame of the backend; return the frame to deliver, or None.

        Raises DecodeError when the backend may not send it now.
        """
        kind = type(frame)
        if kind not in ALLOWED[self.state]:
            raise DecodeError(f"{kind.__name__} while the call is {self.state.name.lower().replace('_', ' ')}")
        delivered: InboundFrame | None = frame
        match frame:
            case frames.Audio():
                delivered = self._as_session_counts(frame) if self._take_audio(frame) else None
            case frames.ResponseStarted():
                self._start_response(frame.response)
                delivered = self._as_session_counts(frame)
            case frames.ResponseEnded():
                self._check_started(frame.response)
                self._speaking = self._speaking and frame.response != self._open
                delivered = self._as_session_counts(frame) if frame.response > self._cleared else None
            case frames.Clear():
                if frame.response:
                    self._check_started(frame.response)
                self._cleared = max(self._cleared, frame.response)
                delivered = self._as_session_counts(frame)
            case frames.Accepted():
                delivered = frame if self.accepted_at is None else None
                self._accept(now)
        self.state = NEXT.get(kind, self.state)
        return delivered

    def take_waiting(self) -> list[SizedFrame]:
        """Return the caller's audio that waits, and the events behind it."""
        waiting: list[SizedFrame] = []
        for frame in self._waiting.frames:  # a comprehension costs a call for each packet
            waiting.append((frame, len(frame.data) + AUDIO_OVERHEAD))
        self._waiting.frames.clear()
        if self._events:
            waiting += [(frames.ClientEvent(self.number, event), size) for event, size in self._events]
            self._events.clear()
            self._event_bytes = 0
        return waiting

    def connection_lost(self, unacknowledged: list[SizedFrame]) -> frames.ResponseEnded | None:
        """Keep `unacknowledged` frames for the next connection: the lost one may not have delivered them.

        Audio of the backend that waits is still played. Returns the end of the open response, to be delivered.
        """
        kept, self._waiting.frames = self._waiting.frames, deque()
        not_received = (frame for frame, _ in unacknowledged if isinstance(frame, frames.Audio))
        for audio in chain(not_received, kept):
            self._carrier.counters.audio_dropped += self._waiting.push(audio)
        for frame, size in reversed(unacknowledged):
            if isinstance(frame, frames.ClientEvent):
                self._return_event(frame.event, size)
        self._returned += self._credit
        self._credit = 0
        cut_off = frames.ResponseEnded(self.number, self._responses_before + self._open) if self._speaking else None
        self._responses_before += self._open
        self._open = self._cleared = 0
        self._speaking = False
        self.state = BackendCallState.LOST
        return cut_off

    def close(self) -> None:
        """Mark the call as over, and free its slot."""
        self.state = BackendCallState.OVER
        self._carrier.forget(self)

    def _accept(self, now: float) -> None:
        if self.give_up_at is not None:
            self._carrier.counters.calls_resumed += 1
        self.accepted_at = now
        self.give_up_at = None
        self._grant_returned()
        if self._waiting.frames or self._events:
            self._carrier.has_waiting(self)

    def _announce(self) -> None:
        """Note at the connection that something is about to wait, if nothing did."""
        if self.state in (BackendCallState.ACCEPTED, BackendCallState.HANGING_UP) and not (
            self._waiting.frames or self._events
        ):
            self._carrier.has_waiting(self)

    def _has_room(self, size: int) -> bool:
        return self._event_bytes + size <= MAX_WAITING_EVENT_BYTES and len(self._events) < MAX_WAITING_EVENTS

    def _return_event(self, event: msgspec.Raw, size: int) -> None:
        if not self._has_room(size):
            self._carrier.counters.events_refused += 1
            return
        self._events.appendleft((event, size))
        self._event_bytes += size

    def _resumed_ms(self) -> int:
        """Return the position in the caller's audio where another backend goes on, in ms; 0 for a new call."""
        if self.accepted_at is None:
            return 0
        samples = 0
        if self._waiting.frames:
            samples = self._waiting.frames[0].position
        elif self._last_audio is not None:
            lost = not self._last_audio.data  # a lost Opus packet has a position, but no duration
            ticks = 0 if lost else self._audio_format.duration(self._last_audio.data)
            samples = self._last_audio.position + ticks * self._audio_format.rate // 48000
        return max(1, samples * 1000 // self._audio_format.rate)

    def _as_session_counts(self, frame: InboundFrame) -> InboundFrame:
        if not self._responses_before:
            return frame
        return msgspec.structs.replace(frame, response=frame.response + self._responses_before)  # type: ignore[union-attr]

    def _start_response(self, response: int) -> None:
        if response <= self._open:
            raise DecodeError(f"response {response} started after response {self._open}")
        self._open = response
        self._speaking = True

    def _check_started(self, response: int) -> None:
        if not 0 < response <= self._open:
            raise DecodeError(f"response {response} was never started")

    def _take_audio(self, frame: frames.Audio) -> bool:
        """Account for audio of the backend; return whether it is to be played."""
        ticks = self._audio_format.duration(frame.data)
        if self._audio_format.name == "opus" and len(frame.data) > MAX_PACKET_BYTES:
            raise DecodeError(f"an Opus packet of {len(frame.data)} bytes")
        if ticks > _MAX_AUDIO_TICKS:
            raise DecodeError(f"{ticks // TICKS_PER_MS} ms of audio in one frame")
        if ticks > self._credit:
            raise DecodeError(f"overrun: {ticks // TICKS_PER_MS} ms of audio beyond the credit")
        self._credit -= ticks
        if 0 < frame.response <= self._cleared:
            self._carrier.counters.late_frames += 1
            self._return_credit(ticks)
            return False
        if not frame.response or frame.response != self._open:
            raise DecodeError(f"audio of response {frame.response} while response {self._open} is open")
        return True

    def _return_credit(self, ticks: int) -> None:
        # The credit never exceeds the whole, whatever is reported as played.
        self._returned = min(self._returned + ticks, _CREDIT_TICKS - self._credit)
        if self._returned >= _STEP_TICKS and self.state in (BackendCallState.ACCEPTED, BackendCallState.HANGING_UP):
            self._grant_returned()

    def _grant_returned(self) -> None:
        milliseconds, self._returned = divmod(self._returned, TICKS_PER_MS)
        self._credit += milliseconds * TICKS_PER_MS
        self._carrier.send(frames.Credit(self.number, milliseconds))
