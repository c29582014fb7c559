"""One connection to a backend, without IO: the calls on it, and what goes in and out."""

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from antiphon_common import frames, json_objects
from antiphon_common.errors import DecodeError
from antiphon_common.formats import FORMATS, AudioFormat
from antiphon_common.frame_connection import MESSAGE_BUDGET, CloseCode, Closing, FrameConnection
from antiphon_transceiver.backends.call import (
    BackendCall,
    BackendCallState,
    BackendCounters,
    BackendError,
    InboundFrame,
    SizedFrame,
)

BACKEND_LOST = "backend_lost"
"""The reason in `Ended` when the connection of a call was lost."""

BAD_FRAME = "bad_frame"
NO_ANSWER = "no_answer"
"""Reasons in `Ended` when the backend sent a frame that it must not, or no answer."""

BUSY = frozenset(("full", "draining"))
"""Codes of `Refused` that do not depend on the call: another address may accept it."""

FULL_HOLD = 1.0
"""Seconds without new calls after a backend refused one as `full`: other transceivers fill its slots too."""

MAX_UNACKNOWLEDGED = 1 << 15
"""Unacknowledged batches of calls, kept to be sent again after a loss. A connection counts as lost after 4 s without a
message; in that time 160 calls send this many."""

MAX_UNACKNOWLEDGED_BYTES = 1 << 25
"""The same for bytes: 4 s of 48 kHz PCM of 80 calls."""


class NoBackend(BackendError):
    """No backend of that name is configured."""


class NoCapacity(BackendError):
    """The backend has no connected address with a free slot."""


class SessionTooLarge(BackendError):
    """The session and metadata of a call do not fit a frame."""


class Delivery(NamedTuple):
    """A frame of a backend for a call."""

    call: BackendCall
    frame: InboundFrame


class BackendConnection:
    """Carries any number of calls over one connection. `now` is in seconds, monotonic.

    The shell calls `receive_in_steps` and `handle_timeout`, then `BackendSelector.collect`; it sends what
    `poll_transmit` returns, and closes the connection once `closing` is set.
    """

    def __init__(self, counters: BackendCounters, now: float) -> None:
        self.counters = counters
        self.wanted = True
        """Whether new calls may come here; False once the backend's name no longer leads to this address."""
        self._connection = FrameConnection(frames.BackendHello(frames.VERSION), counters, now)
        self._calls: dict[int, BackendCall] = {}
        self._last_number = 0
        self._ready: deque[BackendCall] = deque()  # calls whose audio and events may go out
        self._unacknowledged: deque[tuple[BackendCall, list[SizedFrame], int]] = deque()
        self._unacknowledged_bytes = 0
        self._events: deque[Delivery] = deque()
        self._full_until = now

    @property
    def closing(self) -> Closing | None:
        """Why this end abandoned the connection, once it did."""
        return self._connection.closing

    @property
    def greeted(self) -> bool:
        """Whether the backend has sent its hello."""
        return self._connection.peer is not None

    @property
    def calls(self) -> int:
        return len(self._calls)

    @property
    def open_calls(self) -> Collection[BackendCall]:
        """The calls that use this connection now."""
        return self._calls.values()

    @property
    def pending(self) -> bool:
        """Whether `poll_transmit` has something."""
        return bool(self._ready) or self._connection.pending_bytes > 0

    def free_slots(self, now: float) -> int:
        """Return how many more calls this connection can take now."""
        hello = self._connection.peer
        if hello is None or not self.wanted or self._connection.draining or self.closing or now < self._full_until:
            return 0
        if not any(name in FORMATS for name in hello.formats):
            return 0
        return max(0, hello.slots - len(self._calls))

    def takes(self, audio_format: str) -> bool:
        """Return whether the backend takes audio in a format."""
        return self._connection.peer is not None and audio_format in self._connection.peer.formats

    def choose_format(self, preferred: str) -> AudioFormat | None:
        """Return the preferred format if the backend takes it, else the first of its own that is supported here."""
        offered = self._connection.peer.formats if self._connection.peer else ()
        supported = [name for name in offered if name in FORMATS]
        if not supported:
            return None
        return AudioFormat.parse(preferred if preferred in supported else supported[0])

    def open(
        self,
        audio_format: AudioFormat,
        call_id: str,
        tenant: str,
        session: Mapping[str, Any],
        metadata: Mapping[str, str],
        now: float,
    ) -> BackendCall:
        """Start a call. Raises `SessionTooLarge`."""
        number = self._last_number + 1
        try:
            packed = json_objects.pack(session), json_objects.pack(metadata)
        except ValueError as error:
            raise SessionTooLarge(f"the session {error}") from None
        started = frames.Started(number, call_id, tenant, audio_format.name, *packed)
        encoded = frames.encode_frame(started)
        size, most = len(memoryview(encoded)), frames.MAX_STARTED_SIZE
        if size > most:
            raise SessionTooLarge(f"session and metadata take {size} bytes, {most} is the most")
        self._last_number = number
        self._connection.send(encoded, size)
        call = self._calls[number] = BackendCall(self, started, now)
        return call

    def resume(self, call: BackendCall, now: float) -> None:
        """Restart a call that had another connection before."""
        self._last_number += 1
        encoded = frames.encode_frame(call.start(self, self._last_number, now))
        self._connection.send(encoded, len(memoryview(encoded)))
        self._calls[call.number] = call

    def receive_message(self, message: bytes | str, now: float) -> None:
        """Handle one WebSocket message; `collect` afterwards."""
        for _ in self.receive_in_steps(message, now):
            pass

    def receive_in_steps(self, message: bytes | str, now: float) -> Iterator[None]:
        """Handle one WebSocket message in steps of bounded work; `collect` after each."""
        self._forget_unacknowledged()
        for step in self._connection.receive_in_steps(message):
            for frame in step:
                call = self._calls.get(frame.call)  # type: ignore[arg-type]
                if call is None:
                    self.counters.stale_frames += 1
                elif isinstance(frame, frames.BadFrame):
                    self._fail(call, frame, BAD_FRAME)
                else:
                    self._receive(call, frame, now)
            yield

    def handle_timeout(self, now: float) -> None:
        """Send the ping that is due, and end calls that were never answered."""
        self._connection.handle_timeout(now)
        overdue = [c for c in self._calls.values() if c.state is BackendCallState.STARTING and now >= c.deadline]
        for call in overdue:
            if call.give_up_at is None:
                self._fail(call, frames.Ended(call.number, NO_ANSWER), NO_ANSWER)
            else:
                self._full_until = now + FULL_HOLD
                self._connection.send(frames.Ended(call.number, NO_ANSWER))
                self._detach(call, [])

    def poll_transmit(self) -> bytes | None:
        """Return the next message to send, or None. Called when the connection takes it, not before: until then the
        caller's audio may still be dropped in favour of newer."""
        connection = self._connection
        while self._ready and connection.pending_bytes < MESSAGE_BUDGET:
            call = self._ready.popleft()
            if call.state is not BackendCallState.OVER:
                waiting = call.take_waiting()
                sent = 0
                for frame, size in waiting:
                    connection.send(frame, size)
                    sent += size
                self._unacknowledged.append((call, waiting, sent))
                self._unacknowledged_bytes += sent
                if (
                    len(self._unacknowledged) > MAX_UNACKNOWLEDGED
                    or self._unacknowledged_bytes > MAX_UNACKNOWLEDGED_BYTES
                ):
                    self._forget_oldest()
        return connection.poll_transmit() if connection.pending_bytes else None

    def poll_event(self) -> Delivery | None:
        """Return the next frame for a call, or None."""
        while self._events:
            delivery = self._events.popleft()
            if not delivery.call.detached:
                return delivery
        return None

    def poll_timeout(self) -> float:
        """Return when `handle_timeout` is due; infinity once the connection is closing."""
        return self._connection.poll_timeout()

    def connection_lost(self) -> None:
        """Detach every call from the lost connection: `Ended` is delivered unless it is resumed on another. A call
        that was hanging up needs no backend any more.
        """
        self._connection.close(CloseCode.GOING_AWAY, "the connection is gone")
        unacknowledged: dict[BackendCall, list[SizedFrame]] = {}
        for call, sent, _ in self._unacknowledged:
            unacknowledged.setdefault(call, []).extend(sent)
        self._forget_unacknowledged()
        for call in list(self._calls.values()):
            if call.state is BackendCallState.HANGING_UP:
                call.close()
            else:
                self._detach(call, unacknowledged.get(call, []))

    # For its calls

    def send(self, frame: frames.Frame) -> None:
        self._connection.send(frame)

    def has_waiting(self, call: BackendCall) -> None:
        self._ready.append(call)

    def forget(self, call: BackendCall) -> None:
        self._calls.pop(call.number, None)

    # Inside

    def _forget_oldest(self) -> None:
        while len(self._unacknowledged) > MAX_UNACKNOWLEDGED or self._unacknowledged_bytes > MAX_UNACKNOWLEDGED_BYTES:
            self._unacknowledged_bytes -= self._unacknowledged.popleft()[2]

    def _forget_unacknowledged(self) -> None:
        self._unacknowledged.clear()
        self._unacknowledged_bytes = 0

    def _receive(self, call: BackendCall, frame: Any, now: float) -> None:
        try:
            delivered = call.receive(frame, now)
        except DecodeError as error:
            self._fail(call, frames.BadFrame(call.number, str(error)), BAD_FRAME)
            return
        if isinstance(delivered, frames.Refused) and delivered.code in BUSY:
            self._full_until = now + FULL_HOLD
        if call.state is BackendCallState.OVER and delivered is not None:
            self._deliver_last(call, delivered)
        elif delivered is not None:
            self._events.append(Delivery(call, delivered))

    def _fail(self, call: BackendCall, last: InboundFrame, reason: str) -> None:
        self.counters.calls_failed += 1
        self._connection.send(frames.Ended(call.number, reason))
        self._deliver_last(call, last)

    def _detach(self, call: BackendCall, unacknowledged: list[SizedFrame]) -> None:
        cut_off = call.connection_lost(unacknowledged)
        self.forget(call)
        if cut_off is not None:
            self._events.append(Delivery(call, cut_off))
        self._events.append(Delivery(call, frames.Ended(call.number, BACKEND_LOST)))

    def _deliver_last(self, call: BackendCall, frame: InboundFrame) -> None:
        call.close()
        self._events.append(Delivery(call, frame))
