"""The interface of a call for its handler, under Trio or asyncio."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

from anyio.lowlevel import checkpoint

from antiphon_backend.core import CallCore, CallState, Eagerness, Speech, TurnMode
from antiphon_backend.waiting_events import Notification
from antiphon_common import json_objects
from antiphon_common.errors import AntiphonError
from antiphon_common.formats import AudioFormat
from antiphon_common.frames import EVERYONE, Audio, ClientEvent, Interrupted, Played
from antiphon_common.shell.wakeup import Wakeup


class RefuseCall(AntiphonError):
    """Refuses the call when a handler raises it before it listens or speaks.

    `code` is one word for programs, `message` a sentence for people.
    """

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.code = code
        self.message = message


class Call:
    """One call, passed to its handler. The call is accepted once the handler listens or speaks.

    Listen with `async for audio in call`: frames in order, each with `data` in the call's format, `position` (index of
    its first sample) and `status` (received, recovered or concealed). The loop ends with the call. At most three
    seconds of audio wait; the oldest is dropped first.

    A handler that returns hangs up once all its audio has been played. When the call ends first, listening ends,
    `say` returns False, and the handler has `server.GRACE` seconds to finish before it is cancelled.
    """

    def __init__(self, core: CallCore, flush: Callable[[], None]) -> None:
        self.id = core.started.call_id
        self.tenant = core.started.tenant
        self.format: AudioFormat = core.format
        """The format of the audio both ways."""
        self.transport = core.started.transport
        """`webrtc`, or `websocket` where the caller's audio travels in events."""
        self.resumed_ms = core.started.resumed_ms
        """Above 0 when another connection had the call before: where in the caller's audio it goes on, in milliseconds
        since the call began. Audio of that connection may still be playing; `clear` drops it."""
        self._core = core
        self._flush = flush
        self._listeners = Wakeup()
        self._event_listeners = Wakeup()
        self._frame_listeners = Wakeup()
        self._speakers = Wakeup()

    @cached_property
    def session(self) -> dict[str, Any]:
        """The session object of the Realtime API, as the caller's side sent it; decoded on first use."""
        return json_objects.unpack(self._core.started.session)

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The metadata that the caller's application attached."""
        return json_objects.unpack(self._core.started.metadata)

    # Listening

    def __aiter__(self) -> "Call":
        self._core.accept()
        self._flush()
        return self

    async def __anext__(self) -> Audio:
        waiting = self._core.audio.frames
        while not waiting:
            if self._core.state is CallState.OVER:
                raise StopAsyncIteration
            await self._listeners.wait()
        return waiting.popleft()

    @property
    def dropped(self) -> int:
        """Frames of the caller's audio that were not listened to in time."""
        return self._core.audio.dropped

    def events(self) -> "ClientEvents":
        """Return the events of the caller's data channel: `async for event in call.events()`.

        Each is a JSON object of the Realtime API. At most a megabyte or 1,024 events wait; the oldest are dropped.
        Frames of speech, turns and playout are skipped.
        """
        return ClientEvents(self)

    def frames(self) -> "CallFrames":
        """Return all that arrives, in one order: `async for frame in call.frames()`.

        Audio comes with the frames of speech, turns, playout and sidebands, and with events as `ParticipantEvent`. Use
        it in place of the other two loops. The same limits apply.
        """
        return CallFrames(self)

    async def configure(
        self,
        mode: TurnMode,
        *,
        threshold: float = 0.5,
        prefix_padding_ms: int = 300,
        silence_duration_ms: int = 500,
        interrupt_response: bool = True,
        idle_timeout_ms: int = 0,
        eagerness: Eagerness = "auto",
    ) -> None:
        """Set how the transceiver detects turns from now on. `frames` reports them.

        The settings have the names and units of the Realtime API. In `full_duplex`, speech is reported and stops
        nothing. With `idle_timeout_ms` 0 there is no timeout. Raises ValueError for a value that cannot be.
        """
        self._core.configure(
            mode,
            threshold=threshold,
            prefix_padding_ms=prefix_padding_ms,
            silence_duration_ms=silence_duration_ms,
            interrupt_response=interrupt_response,
            idle_timeout_ms=idle_timeout_ms,
            eagerness=eagerness,
        )
        self._flush()
        await checkpoint()

    async def send_transcript(self, turn: int, text: str, *, final: bool = True) -> None:
        """Send the words of a turn as far as they are recognised, which helps to find the turn's end.

        At most 8,192 bytes are sent.
        """
        self._core.send_transcript(turn, text, final)
        self._flush()
        await checkpoint()

    async def send_event(self, event: dict[str, Any], *, recipient: int = EVERYONE) -> None:
        """Send a JSON object of the Realtime API to all participants; wait while too much waits to be sent.

        `recipient` 0 is the caller alone, above 0 one sideband.

        Raises ValueError for an event that cannot be encoded, is longer than 262,144 bytes, has more than 16,384 keys
        and values, or more than 64 levels of nesting.
        """
        core = self._core
        core.accept()
        while not core.send_event(event, recipient):
            await self._speakers.wait()
        self._flush()
        await checkpoint()

    # Speaking

    def start_response(self) -> "AudioResponse":
        """Begin a new response. It ends the response before; audio of that one is still played."""
        number = self._core.start_response()
        self._flush()
        return AudioResponse(self, number)

    async def say(self, audio: bytes) -> bool:
        """Send `audio` in the open response, or begin one; wait while the caller is too far behind.

        Audio may come in pieces of any size; Opus one packet at a time. Returns whether all of it was sent: False when
        the call is over, or the response was cut off. After a cut, `start_response` begins the next.

        Raises DecodeError when an Opus packet is malformed.
        """
        core = self._core
        if core.speech is Speech.SILENT:
            core.start_response()
        return await self._say(core.response, audio)

    async def end_response(self) -> None:
        """Report that the open response is complete."""
        self._core.end_response()
        self._flush()
        await checkpoint()

    async def clear(self) -> None:
        """Drop audio that is not played yet, such as when the caller interrupts.

        This includes audio sent on another connection, before the call was resumed.
        """
        self._core.clear()
        self._flush()
        self._speakers.ring()
        await checkpoint()

    @property
    def interrupted(self) -> Interrupted | None:
        """The latest interruption: the response, and the milliseconds of it that were played."""
        return self._core.interrupted

    async def wait_interrupted(self) -> Interrupted | None:
        """Wait for the next interruption; None when the call ends first."""
        core = self._core
        before = core.interrupted
        while core.interrupted is before and core.state is not CallState.OVER:
            await self._speakers.wait()
        return core.interrupted if core.interrupted is not before else None

    # Ending

    async def hang_up(self, reason: str = "") -> None:
        """End the call once all audio sent has been played."""
        self._core.hang_up(reason)
        self._flush()
        await checkpoint()

    @property
    def ended(self) -> str | None:
        """Why the call is over, None while it is not."""
        return self._core.reason

    async def wait_ended(self) -> None:
        """Wait until the call is over."""
        while self._core.state is not CallState.OVER:
            await self._speakers.wait()

    # For the server

    def notice(self) -> None:
        """Wake the tasks that wait for what changed."""
        core = self._core
        if core.news:
            core.news = False
            self._speakers.ring()
        if core.audio.frames or core.state is CallState.OVER:
            self._listeners.ring()
        if core.events.frames or core.state is CallState.OVER:
            self._event_listeners.ring()
        if core.audio.frames or core.events.frames or core.state is CallState.OVER:
            self._frame_listeners.ring()

    async def _say(self, response: int, audio: bytes) -> bool:
        core = self._core
        if not core.speaks(response):
            await checkpoint()
            return False
        audio = core.whole_samples(audio)
        sent = core.send_audio(audio)
        self._flush()
        while sent < len(audio):
            await self._speakers.wait()
            if not core.speaks(response):
                return False
            sent = core.send_audio(audio, sent)
            self._flush()
        return True


class ParticipantEvent(NamedTuple):
    """An event of a participant, from `Call.frames`. `source` is 0 for the caller, and above for a sideband."""

    event: dict[str, Any]
    source: int


class ClientEvents:
    """The events of one call, in order. Iterate with `async for`; the loop ends with the call."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.source = 0
        """The sender of the latest event: 0 for the caller, above for a sideband."""

    def __aiter__(self) -> "ClientEvents":
        self._call._core.accept()
        self._call._flush()
        return self

    async def __anext__(self) -> dict[str, Any]:
        core = self._call._core
        while True:
            while not core.events.frames:
                if core.state is CallState.OVER:
                    raise StopAsyncIteration
                await self._call._event_listeners.wait()
            frame = core.events.pop()
            if isinstance(frame, ClientEvent):
                self.source = frame.source
                return json_objects.unpack(frame.event)


class CallFrames:
    """All that arrives in one call, in order. Iterate with `async for`; the loop ends with the call."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def __aiter__(self) -> "CallFrames":
        self._call._core.accept()
        self._call._flush()
        return self

    async def __anext__(self) -> Audio | Notification | ParticipantEvent:
        core = self._call._core
        while (frame := core.next_frame()) is None:
            if core.state is CallState.OVER:
                raise StopAsyncIteration
            await self._call._frame_listeners.wait()
        if isinstance(frame, ClientEvent):
            return ParticipantEvent(json_objects.unpack(frame.event), frame.source)
        return frame


class AudioResponse:
    """The audio of one response. Send it with `say`.

    Audio is dropped after a cut or the start of another response.
    """

    def __init__(self, call: Call, number: int) -> None:
        self._call = call
        self._number = number

    async def say(self, audio: bytes) -> bool:
        """Send audio as `Call.say` does, for this response only."""
        return await self._call._say(self._number, audio)

    async def end(self) -> None:
        """Report that the response is complete, unless it was cut off or another was started."""
        if self._call._core.speaks(self._number):
            await self._call.end_response()

    async def wait_played(self) -> Played | None:
        """Report that the response is complete, and wait until all of it has left for the caller.

        Returns None when it was cut off, or the call ended first.
        """
        await self.end()
        core = self._call._core
        while (outcome := core.outcome(self._number)) is None and core.state is not CallState.OVER:
            await self._call._speakers.wait()
        return outcome if isinstance(outcome, Played) else None

    @property
    def heard_ms(self) -> int | None:
        """The milliseconds that were played when the response was cut off; None if it was not."""
        for outcome in self._call._core.outcomes:
            if isinstance(outcome, Interrupted) and outcome.response == self._number:
                return outcome.heard_ms
        return None
