"""One end of a connection that carries frames, without IO: hello, heartbeat, tolerance, and messages of bounded size.

The transceiver's `BackendConnection` and the backend's `TransceiverConnection` each have one, and handle the frames of
calls.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from enum import IntEnum
from math import inf
from typing import NamedTuple

import msgspec

from antiphon_common import frames
from antiphon_common.errors import DecodeError
from antiphon_common.frames import AnyCallFrame, AnyFrame, BadFrame, Frame, TooManyFrames

HEARTBEAT_INTERVAL = 1.0
MISSED_HEARTBEATS = 3
"""Consecutive pings without any received message, after which the connection is lost."""

HELLO_TIMEOUT = 3.0
"""Seconds in which the hello of the other end must arrive. It is sent first of all."""

MESSAGE_BUDGET = 1 << 16
"""Bytes after which a message ends and the next one begins. So no call waits long for the burst of another."""

MAX_PENDING_BYTES = 8 << 20
"""Largest number of bytes that may wait to be sent. More of them close the connection, since the other end does not
read. Credit and the limits of the caller's audio keep the number far lower for an end that reads."""

MAX_PENDING_FRAMES = 1 << 16
"""Largest number of frames that may wait, since short frames take more memory than their bytes: 12 MiB. That is the
credit of 1,000 calls for 6 s."""

CONTROL_SIZE = 64
"""Assumed size of a frame without audio, in bytes."""

AUDIO_OVERHEAD = 24
"""Largest size of an audio frame without its data, in bytes."""

STEP_FRAMES = 64
"""Frames that are handled in one step: about a millisecond of work. Other tasks run between two steps."""

EVENT_FRAMES = 8
EVENT_FRAME_BYTES = 1 << 7
"""Work of a frame with an event, which is converted: it counts as `EVENT_FRAMES` frames, and one more for each
`EVENT_FRAME_BYTES`. An event of 1,200 bytes in short arrays takes 0.3 ms."""

MAX_JUNK = 100
"""Junk after which the connection is closed. An end with a bug may continue; an end with another protocol may not.

Junk is one of three: a message that is no array of frames, a malformed frame about no call, or a step through a frame
that is nested too deeply."""

FORGIVEN_JUNK = 10
"""Junk that is forgiven with each of our pings, once a second."""

MAX_IDLE = 1000
"""Frames about the connection, and empty messages, in the second between two of our pings. An end that follows the
protocol sends two or three."""


class CloseCode(IntEnum):
    """The WebSocket close codes of a frame connection (RFC 6455 §7.4). A `Closing` has one of them."""

    NORMAL = 1000
    GOING_AWAY = 1001
    TOO_BIG = 1009
    PROTOCOL_ERROR = 4000
    VERSION_MISMATCH = 4001
    HEARTBEAT_LOST = 4002
    NOT_READING = 4003


class Closing(NamedTuple):
    """Why this end abandoned the connection. The shell closes the WebSocket with its code and detail."""

    code: CloseCode
    detail: str


class ConnectionCounters:
    """Counters of received messages and frames, and of those that were malformed or unknown.

    A `FrameConnection` counts them. Several connections may share one object.
    """

    __slots__ = ("bad_frames", "bad_messages", "frames", "messages", "unknown_tags")

    def __init__(self) -> None:
        self.messages = 0
        self.frames = 0
        self.bad_messages = 0
        self.bad_frames = 0
        self.unknown_tags = 0


class FrameConnection:
    """One end of a connection: queues frames to send, sends and answers pings, and checks what it receives.

    Pass it each message. Call `handle_timeout` at `poll_timeout`, and drain `poll_transmit`. When `closing` is set,
    close the WebSocket.
    """

    def __init__(self, hello: frames.BackendHello, counters: ConnectionCounters, now: float) -> None:
        self.peer: frames.BackendHello | None = None
        """The latest hello of the other end. Until it has arrived, no other frame is accepted."""
        self.draining = False
        self.closing: Closing | None = None
        self.counters = counters
        self.pending_bytes = 0
        self._queue: deque[tuple[Frame | msgspec.Raw, int]] = deque()
        self._hello_deadline = now + HELLO_TIMEOUT
        self._next_ping = now + HEARTBEAT_INTERVAL
        self._pings = 0
        self._unanswered = 0
        self._junk = 0
        self._idle = 0
        self.send(hello)

    def send(self, frame: Frame | msgspec.Raw, size: int = CONTROL_SIZE) -> None:
        """Queue a frame of about `size` bytes. It has no effect once the connection is closing."""
        if self.closing is not None:
            return
        self._queue.append((frame, size))
        self.pending_bytes += size
        if self.pending_bytes > MAX_PENDING_BYTES or len(self._queue) > MAX_PENDING_FRAMES:
            waiting = f"{len(self._queue)} frames with {self.pending_bytes} bytes"
            self.close(CloseCode.NOT_READING, f"{waiting} wait to be read")

    def close(self, code: CloseCode, detail: str) -> None:
        """Abandon the connection, and drop the frames that wait to be sent. If it is closing already, keep the first
        reason."""
        if self.closing is None:
            self.closing = Closing(code, detail)
        self._queue.clear()
        self.pending_bytes = 0

    def receive_message(self, message: bytes | str) -> list[AnyCallFrame | BadFrame]:
        """Handle one WebSocket message. Return its frames about calls, in order."""
        return [frame for step in self.receive_in_steps(message) for frame in step]

    def receive_in_steps(self, message: bytes | str) -> Iterator[list[AnyCallFrame | BadFrame]]:
        """Handle one WebSocket message in steps of bounded work. Yield each step's frames about calls, in order."""
        self._unanswered = 0
        self.counters.messages += 1
        try:
            yield from self._steps(_split(message))
        except TooManyFrames as error:
            self.counters.bad_messages += 1
            self.close(CloseCode.TOO_BIG, str(error))
        except DecodeError as error:
            self.counters.bad_messages += 1
            if self.peer is None:
                self.close(CloseCode.PROTOCOL_ERROR, f"no hello: {error}")
            self._count_junk(str(error))

    def _steps(self, batch: Iterable[msgspec.Raw | None]) -> Iterator[list[AnyCallFrame | BadFrame]]:
        about_calls: list[AnyCallFrame | BadFrame] = []
        room, frames_before = STEP_FRAMES, self.counters.frames
        for raw in batch:
            if raw is None:
                room = 0
                self._count_junk("frames that are nested too deeply")
            else:
                self.counters.frames += 1
                frame = frames.decode_frame(raw)
                room -= 1
                if isinstance(frame, frames.Audio) and self.peer is not None:
                    about_calls.append(frame)
                else:
                    room -= self._receive(raw, frame, about_calls)
            if room <= 0:
                yield about_calls
                if self.closing is not None:
                    return
                about_calls, room = [], STEP_FRAMES
        if self.counters.frames == frames_before:
            self._count_idle()
        yield about_calls

    def handle_timeout(self, now: float) -> None:
        """Send the ping that is due, or abandon a connection without hello or answers."""
        if self.peer is None and now >= self._hello_deadline:
            self.close(CloseCode.PROTOCOL_ERROR, f"no hello within {HELLO_TIMEOUT:g} s")
        if self.closing is not None or now < self._next_ping:
            return
        if self._unanswered >= MISSED_HEARTBEATS:
            self.close(CloseCode.HEARTBEAT_LOST, f"nothing received after {self._unanswered} pings")
            return
        self._next_ping = now + HEARTBEAT_INTERVAL
        self._pings += 1
        self._unanswered += 1
        self._junk = max(0, self._junk - FORGIVEN_JUNK)
        self._idle = 0
        self.send(frames.Ping(self._pings))

    def poll_transmit(self) -> bytes | None:
        """Return the next message to send, or None."""
        if not self._queue:
            return None
        batch, size = [], 0
        while self._queue and size < MESSAGE_BUDGET:
            frame, frame_size = self._queue.popleft()
            batch.append(frame)
            size += frame_size
        self.pending_bytes -= size
        return frames.encode(batch)

    def poll_timeout(self) -> float:
        """Return when `handle_timeout` is due; infinity once the connection is closing."""
        if self.closing is not None:
            return inf
        return min(self._next_ping, self._hello_deadline) if self.peer is None else self._next_ping

    def _receive(
        self, raw: msgspec.Raw, frame: AnyFrame | BadFrame | None, about_calls: list[AnyCallFrame | BadFrame]
    ) -> int:
        """Handle a frame without audio. Return its extra work in frames, which is above 0 for events."""
        if self.closing is not None:
            return 0
        match frame:
            case frames.BackendHello():
                self._greet(frame)
                self._count_idle()
            case _ if self.peer is None:
                self.close(CloseCode.PROTOCOL_ERROR, "the first frame is no hello")
            case frames.Ping():
                self.send(frames.Pong(frame.number))
                self._count_idle()
            case frames.Pong():  # only its receipt counts
                self._count_idle()
            case frames.BackendDrain():
                self.draining = True
                self._count_idle()
            case None:
                self.counters.unknown_tags += 1
            case BadFrame():
                self.counters.bad_frames += 1
                if frame.call is None:
                    self._count_junk(frame.detail)
                else:
                    about_calls.append(frame)
            case frames.ClientEvent() | frames.ServerEvent():
                about_calls.append(frame)
                return EVENT_FRAMES + len(memoryview(raw)) // EVENT_FRAME_BYTES
            case _:
                about_calls.append(frame)
        return 0

    def _count_idle(self) -> None:
        self._idle += 1
        if self._idle > MAX_IDLE:
            self.close(CloseCode.PROTOCOL_ERROR, f"more than {MAX_IDLE} pings or empty messages in a second")

    def _count_junk(self, detail: str) -> None:
        self._junk += 1
        if self._junk > MAX_JUNK:
            self.close(CloseCode.PROTOCOL_ERROR, f"{self._junk} messages or frames were invalid, the last: {detail}")

    def _greet(self, hello: frames.BackendHello) -> None:
        if hello.version != frames.VERSION:
            detail = f"the other end speaks version {hello.version} of the frames, this one {frames.VERSION}"
            self.close(CloseCode.VERSION_MISMATCH, detail)
        else:
            self.peer = hello


def _split(message: bytes | str) -> Iterable[msgspec.Raw | None]:
    if isinstance(message, str):
        raise DecodeError("a text message")
    return frames.split(message)
