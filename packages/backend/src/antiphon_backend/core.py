"""A backend's end of a connection, without IO: its calls, their credit, and the changes that handlers wait for.

Its shell is in `call.py` and `server.py`.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from antiphon_backend.waiting_events import EventFrame, WaitingEvents
from antiphon_common import frames, json_objects
from antiphon_common.caller_audio import CallerAudio
from antiphon_common.errors import DecodeError
from antiphon_common.formats import FRAME_MS, TICKS_PER_MS, AudioFormat
from antiphon_common.frame_connection import (
    AUDIO_OVERHEAD,
    CONTROL_SIZE,
    CloseCode,
    Closing,
    ConnectionCounters,
    FrameConnection,
)

TurnMode = Literal["none", "server_vad", "semantic_vad", "full_duplex"]
"""How the transceiver detects turns."""

Eagerness = Literal["low", "medium", "high", "auto"]
"""How soon `semantic_vad` takes a pause for the end of a turn."""

HIGH_WATER = 1 << 18
"""Bytes that may wait to be sent before handlers that send must wait: one second of 48 kHz PCM of three calls."""

MAX_TEXT = 1000
"""Characters of a reason or message; more is cut."""

MAX_AUDIO_BYTES = frames.MAX_AUDIO_MS * 96
"""Bytes of the longest stretch of audio in one frame, in the format with most of them: PCM at 48 kHz."""

MAX_OUTCOMES = 32
"""Latest interruptions and ends of playout that a call keeps: a handler runs before that many more arrive."""

HANDLERS_PER_SLOT = 2
"""Handlers that may run for each slot: that of a call, and that of the call before it, which has time to finish."""

_FRAME_TICKS = FRAME_MS * TICKS_PER_MS


class CallState(Enum):
    """States of a call. A handler runs from `OFFERED` on; it accepts the call when it first sends or asks for audio."""

    OFFERED = auto()
    ACCEPTED = auto()
    HANGING_UP = auto()
    OVER = auto()


class Speech(Enum):
    """States of a call's output. After `CUT`, audio is dropped until a new response is started."""

    SILENT = auto()
    OPEN = auto()
    CUT = auto()


class Slots:
    """Counts the calls and handlers of all connections of a backend. Share one between its connections."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.handlers = 0
        """Handlers that run, also those whose calls are over."""

    @property
    def full(self) -> bool:
        """Whether another call must be refused."""
        return self.taken >= self.limit or self.handlers >= HANDLERS_PER_SLOT * self.limit


class CallOffered(NamedTuple):
    """A call began; its handler is to be run."""

    call: "CallCore"


class CallChanged(NamedTuple):
    """A call changed: audio arrived, or one of the events that set `news`."""

    call: "CallCore"


Event = CallOffered | CallChanged


class CallCore:
    """One call of a backend. A handler acts by methods and waits for changes of attributes."""

    def __init__(self, connection: "TransceiverConnection", started: frames.Started) -> None:
        session_object, metadata = started.session.copy(), started.metadata.copy()  # not the whole message
        self.started = msgspec.structs.replace(started, session=session_object, metadata=metadata)
        self.format = AudioFormat.parse(started.format)
        self.state = CallState.OFFERED
        self.speech = Speech.SILENT
        self.response = 0
        """The number of the latest response."""
        self.audio = CallerAudio(self.format.rate)
        self.events = WaitingEvents()
        self.interrupted: frames.Interrupted | None = None
        """The latest interruption."""
        self.outcomes: deque[frames.Played | frames.Interrupted] = deque(maxlen=MAX_OUTCOMES)
        """The latest ends of playout, oldest first."""
        self.reason: str | None = None
        """Why the call is over, once it is."""
        self.news = False
        """Set with credit, room, an interruption, an end of playout or of the call: a sending handler waits for it."""
        self._connection = connection
        self._number = started.call
        self._credit = 0  # ticks
        self._half = b""  # the first byte of a sample that was cut in two
        self._audio_received = 0  # frames

    # From the handler

    def accept(self) -> None:
        """Take the call, if it has not been taken yet."""
        if self.state is CallState.OFFERED:
            self.state = CallState.ACCEPTED
            self._connection.send(frames.Accepted(self._number))

    def refuse(self, code: str, message: str) -> None:
        """Refuse the call; end it if it was accepted before."""
        if self.state is CallState.OFFERED:
            self._connection.send(frames.Refused(self._number, code[:MAX_TEXT], message[:MAX_TEXT]))
            self.close(code)
        else:
            self.end(code)

    def start_response(self) -> int:
        """Begin a new response, and end the one that is open; return its number."""
        self.accept()
        self.end_response()
        self.response += 1
        self.speech = Speech.OPEN
        if self.state is CallState.ACCEPTED:
            self._connection.send(frames.ResponseStarted(self._number, self.response))
        return self.response

    def whole_samples(self, audio: bytes) -> bytes:
        """Return the whole samples of `audio`. An odd byte of PCM is kept for the next piece."""
        if self.format.name == "opus" or not (self._half or len(audio) % 2):
            return audio
        audio = self._half + audio
        even = len(audio) - len(audio) % 2
        self._half = audio[even:]
        return audio[:even]

    def send_audio(self, audio: bytes, start: int = 0) -> int:
        """Send audio from the byte `start` on, as far as credit and room go; return where it stopped.

        PCM is cut into frames of `FRAME_MS`; Opus is one packet. Raises DecodeError for what is no audio.
        """
        connection = self._connection
        size = self.format.frame_bytes or len(audio)
        while start < len(audio):
            data = audio if size == len(audio) else audio[start : start + size]
            ticks = _FRAME_TICKS if len(data) == self.format.frame_bytes else self.format.duration(data)
            if ticks > self._credit or connection.crowded(self):
                break
            self._credit -= ticks
            connection.send(frames.Audio(self._number, data, response=self.response), len(data) + AUDIO_OVERHEAD)
            start += len(data)
        return start

    def speaks(self, response: int) -> bool:
        """Return whether audio of a response would still be played."""
        return response == self.response and self.speech is Speech.OPEN and self.state is CallState.ACCEPTED

    def send_event(self, event: dict[str, Any], recipient: int = frames.EVERYONE) -> bool:
        """Send an event, if there is room; return False if it must wait. Raises ValueError if it fits no frame."""
        if self.state is CallState.OVER:
            return True
        encoded = frames.encode_frame(frames.ServerEvent(self._number, json_objects.pack(event), recipient))
        size = len(memoryview(encoded))
        if size > frames.MAX_EVENT_SIZE:
            raise ValueError(f"an event of {size} bytes, {frames.MAX_EVENT_SIZE} is the most")
        if self._connection.crowded(self):
            return False
        self._connection.send(encoded, size)
        return True

    def configure(self, mode: TurnMode, **settings: Any) -> None:
        """Set how turns are detected; `settings` are fields of `Configure`. Raises ValueError for a bad value."""
        frame = _checked(frames.Configure(self._number, mode, **settings))
        self.accept()
        if self.state in (CallState.ACCEPTED, CallState.HANGING_UP):
            self._connection.send(frame)

    def send_transcript(self, turn: int, text: str, final: bool) -> None:
        """Send the words of a turn. Words beyond `MAX_TRANSCRIPT` bytes are cut off."""
        if self.state in (CallState.ACCEPTED, CallState.HANGING_UP):
            cut = text.encode(errors="replace")[: frames.MAX_TRANSCRIPT].decode(errors="ignore")
            self._connection.send(frames.Transcript(self._number, turn, cut, final))

    def next_frame(self) -> frames.Audio | EventFrame | None:
        """Remove and return the oldest frame of all that wait, audio or event; None if none waits."""
        waiting = self.audio.frames
        if self.events.is_due(self._audio_received - len(waiting)):
            return self.events.pop()
        return waiting.popleft() if waiting else None

    def outcome(self, response: int) -> frames.Played | frames.Interrupted | None:
        """Return how the playout of a response ended, None while it goes on. An interruption ends earlier ones too."""
        return next((frame for frame in self.outcomes if frame.response >= response), None)

    def end_response(self) -> None:
        """Report that the open response is complete."""
        if self.speech is Speech.OPEN and self.state is CallState.ACCEPTED:
            self._connection.send(frames.ResponseEnded(self._number, self.response))
        self.speech = Speech.SILENT
        self._half = b""

    def clear(self) -> None:
        """Drop audio not played yet, of earlier connections too. `interrupted` reports how much was played."""
        if self.started.resumed_ms:
            self.accept()
        if (self.response or self.started.resumed_ms) and self.state in (CallState.ACCEPTED, CallState.HANGING_UP):
            self._connection.send(frames.Clear(self._number, self.response))
        self.speech = Speech.SILENT
        self._half = b""

    def hang_up(self, reason: str = "") -> None:
        """End the call once all audio sent has been played."""
        self.accept()
        if self.state is CallState.ACCEPTED:
            self.end_response()
            self.state = CallState.HANGING_UP
            self._connection.send(frames.HangUp(self._number, reason[:MAX_TEXT]))

    def end(self, reason: str) -> None:
        """End the call now."""
        if self.state is not CallState.OVER:
            self._connection.send(frames.Ended(self._number, reason[:MAX_TEXT]))
            self.close(reason)

    # From the connection

    def receive(self, frame: frames.AnyCallFrame) -> None:
        """Handle a frame of the transceiver. Raises DecodeError for one that it must not send."""
        match frame:
            case frames.Audio():
                if len(frame.data) > MAX_AUDIO_BYTES:
                    raise DecodeError(f"{len(frame.data)} bytes of audio in one frame")
                if self.state is CallState.ACCEPTED:
                    self._audio_received += 1
                    self.audio.push(frame)
            case frames.Credit():
                self._credit += frame.milliseconds * TICKS_PER_MS
                self.news = True
            case frames.Ended():
                self.close(frame.reason)
            case _ if isinstance(frame, EventFrame):
                self.events.push(frame, self._audio_received)
                self._note(frame)
            case _:
                raise DecodeError(f"{type(frame).__name__} from a transceiver")

    def _note(self, frame: EventFrame) -> None:
        """Keep the end of playout of a response, so that it can be waited for."""
        if not isinstance(frame, frames.Interrupted | frames.Played):
            return
        self.outcomes.append(frame)
        self.news = True
        if isinstance(frame, frames.Interrupted):
            self.interrupted = frame
            if frame.response == self.response and self.speech is Speech.OPEN:
                self.speech = Speech.CUT

    def close(self, reason: str) -> None:
        """Mark the call as over, and wake its handler."""
        self.state = CallState.OVER
        self.reason = reason
        self.news = True
        self._connection.forget(self)


class TransceiverConnection:
    """One connection of a transceiver. `now` is in seconds, monotonic.

    The shell feeds `receive_in_steps` and `handle_timeout`, sends what `poll_transmit` returns, and handles
    what `poll_event` returns. It closes the connection once `closing` is set, and then calls `lost`.
    """

    def __init__(self, slots: Slots, formats: Sequence[str], counters: ConnectionCounters, now: float) -> None:
        hello = frames.BackendHello(frames.VERSION, slots.limit, tuple(formats))
        self._connection = FrameConnection(hello, counters, now)
        self._formats = frozenset(formats)
        self._slots = slots
        self._calls: dict[int, CallCore] = {}
        self._events: deque[Event] = deque()
        self._changed: dict[CallCore, None] = {}
        self._crowded: dict[CallCore, None] = {}
        self._draining = False

    @property
    def closing(self) -> Closing | None:
        """Why this end abandoned the connection, once it did."""
        return self._connection.closing

    @property
    def calls(self) -> int:
        return len(self._calls)

    def receive_message(self, message: bytes | str, now: float) -> None:
        """Handle one WebSocket message; drain `poll_event` afterwards."""
        for _ in self.receive_in_steps(message, now):
            pass

    def receive_in_steps(self, message: bytes | str, now: float) -> Iterator[None]:
        """Handle one WebSocket message in steps of bounded work; drain `poll_event` after each."""
        for step in self._connection.receive_in_steps(message):
            for frame in step:
                call = self._calls.get(frame.call)  # type: ignore[arg-type]
                if isinstance(frame, frames.Started):
                    self._offer(frame, call)
                elif call is not None:
                    self._receive(call, frame)
            yield

    def handle_timeout(self, now: float) -> None:
        """Send the ping that is due, or close the connection if the transceiver stopped answering."""
        self._connection.handle_timeout(now)

    def poll_transmit(self) -> bytes | None:
        """Return the next message to send, or None."""
        message = self._connection.poll_transmit()
        if self._crowded and self._connection.pending_bytes < HIGH_WATER:
            for call in self._crowded:
                call.news = True
                self._changed[call] = None
            self._crowded.clear()
        return message

    def poll_event(self) -> Event | None:
        """Return the next thing for the shell to do, or None. One event covers all changes of a call."""
        if self._events:
            return self._events.popleft()
        if self._changed:
            call = next(iter(self._changed))
            del self._changed[call]
            return CallChanged(call)
        return None

    def poll_timeout(self) -> float:
        """Return when `handle_timeout` is due; infinity once the connection is closing."""
        return self._connection.poll_timeout()

    def drain(self) -> None:
        """Take no new calls."""
        self._draining = True
        self._connection.send(frames.BackendDrain())

    def leave(self) -> None:
        """Close the connection, because the backend stops."""
        self._connection.close(CloseCode.GOING_AWAY, "the backend stops")

    def lost(self) -> None:
        """End all calls of a connection that was lost."""
        self._connection.close(CloseCode.GOING_AWAY, "the connection is gone")
        for call in list(self._calls.values()):
            call.close("transceiver_lost")

    # For its calls

    def send(self, frame: frames.Frame | msgspec.Raw, size: int = CONTROL_SIZE) -> None:
        self._connection.send(frame, size)

    def crowded(self, call: CallCore) -> bool:
        """Return whether too much waits to be sent. If so, `news` of the call is set once there is room."""
        if self._connection.pending_bytes < HIGH_WATER:
            return False
        self._crowded[call] = None
        return True

    def finished(self) -> None:
        """Note that the handler of a call has ended."""
        self._slots.handlers -= 1

    def forget(self, call: CallCore) -> None:
        """Free the slot of a call that is over."""
        if self._calls.pop(call.started.call, None) is not None:
            self._slots.taken -= 1
        self._crowded.pop(call, None)
        self._changed[call] = None

    # Inside

    def _offer(self, started: frames.Started, existing: CallCore | None) -> None:
        number, slots = started.call, self._slots
        if existing is not None:
            existing.end("bad_frame")
        elif self._draining:
            self.send(frames.Refused(number, "draining", "the backend is about to stop"))
        elif slots.full:
            self.send(frames.Refused(number, "full", f"all {slots.limit} slots are taken"))
        elif started.format not in self._formats:
            self.send(frames.Refused(number, "format", f"no audio in {started.format} was offered"))
        else:
            slots.taken += 1
            slots.handlers += 1
            call = self._calls[number] = CallCore(self, started)
            self._events.append(CallOffered(call))

    def _receive(self, call: CallCore, frame: frames.AnyCallFrame | frames.BadFrame) -> None:
        try:
            if isinstance(frame, frames.BadFrame):
                raise DecodeError(frame.detail)
            call.receive(frame)
        except DecodeError:
            call.end("bad_frame")
        self._changed[call] = None


def _checked(frame: frames.Configure) -> frames.Configure:
    if frame.mode not in get_args(TurnMode) or frame.eagerness not in get_args(Eagerness):
        raise ValueError(f"turn detection of mode {frame.mode!r} and eagerness {frame.eagerness!r}")
    if frames.decode_frame(frames.encode_frame(frame)) != frame or not 0 <= frame.threshold <= 1:
        raise ValueError(f"turn detection with {frame}")
    return frame
