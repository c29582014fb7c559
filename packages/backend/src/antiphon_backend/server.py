"""The Trio shell of a backend: listens for transceivers, and runs a handler for each call."""

import logging
from collections.abc import Awaitable, Callable, Sequence

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from antiphon_backend.call import Call, RefuseCall
from antiphon_backend.core import BackendSession, CallCore, CallOffered, CallState, Slots
from antiphon_common.formats import AudioFormat
from antiphon_common.frame_connection import ConnectionCounters
from antiphon_common.frames import MAX_MESSAGE_SIZE
from antiphon_common.settings import Address
from antiphon_common.shell.frame_pump import CLOSE_TIMEOUT, FramePump

log = logging.getLogger(__name__)

Handler = Callable[[Call], Awaitable[None]]

DEFAULT_SLOTS = 100
DEFAULT_FORMATS = ("pcm16/24000", "pcm16/16000", "pcm16/48000")

GRACE = 10.0
"""Seconds a handler has to finish once its call is over."""

HANDSHAKE_TIMEOUT = 5.0
"""Seconds for the WebSocket handshake."""

RECEIVE_BUFFER = 1 << 16
"""Bytes read from a socket at once: a whole message."""


async def serve_backend(
    handler: Handler,
    host: str,
    port: int,
    *,
    slots: int = DEFAULT_SLOTS,
    formats: Sequence[str] = DEFAULT_FORMATS,
    drain: trio.Event | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `handler` to transceivers until cancelled. The started value is the URL, `ws://HOST:PORT`.

    `slots` are the calls taken at once, over all connections; `formats` the audio that is taken, best first. Once
    `drain` is set no new calls are taken, and the function returns when the last one is over.
    """
    for name in formats:
        AudioFormat.parse(name)
    backend = _Backend(handler, Slots(slots), formats)
    listeners = await trio.open_tcp_listeners(port, host=host)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as listening:
            nursery.start_soon(_stop_on, drain, listening)
            task_status.started(f"ws://{Address(*listeners[0].socket.getsockname()[:2])}")
            await trio.serve_listeners(backend.serve_stream, listeners, handler_nursery=nursery)
        await backend.drain()
        nursery.cancel_scope.cancel()


async def _stop_on(drain: trio.Event | None, listening: trio.CancelScope) -> None:
    if drain is not None:
        await drain.wait()
        listening.cancel()


class _Backend:
    """What the connections of one backend share."""

    def __init__(self, handler: Handler, slots: Slots, formats: Sequence[str]) -> None:
        self.handler = handler
        self.slots = slots
        self.formats = formats
        self.counters = ConnectionCounters()
        self._connections: set[_Connection] = set()
        self._quiet = trio.lowlevel.ParkingLot()

    async def serve_stream(self, stream: trio.SocketStream) -> None:
        """Serve one transceiver. Whatever happens on its connection stays there."""
        try:
            async with trio.open_nursery() as nursery:
                with trio.fail_after(HANDSHAKE_TIMEOUT):
                    request = await wrap_server_stream(
                        nursery, stream, max_message_size=MAX_MESSAGE_SIZE, receive_buffer_size=RECEIVE_BUFFER
                    )
                    websocket = await request.accept()
                peer = str(Address(*stream.socket.getpeername()[:2]))
                await self._serve(_Connection(self, websocket, peer, nursery))
        except* trio.TooSlowError:
            log.info("a connection was no WebSocket")
        except* Exception:
            log.exception("a connection failed")

    async def drain(self) -> None:
        """Take no new calls; when the last is over, close the connections."""
        log.info("draining", extra={"calls": self.slots.taken})
        for connection in self._connections:
            connection.drain()
        while any(connection.busy for connection in self._connections):
            await self._quiet.park()
        for connection in self._connections:
            connection.leave()
        with trio.move_on_after(CLOSE_TIMEOUT):
            while self._connections:
                await self._quiet.park()

    def went_quiet(self) -> None:
        """A call, a handler or a connection is done."""
        self._quiet.unpark_all()

    async def _serve(self, connection: "_Connection") -> None:
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self.went_quiet()


class _Connection:
    """One transceiver: its session, and the handlers of its calls in `nursery`."""

    def __init__(self, backend: _Backend, websocket: WebSocketConnection, peer: str, nursery: trio.Nursery) -> None:
        self._backend = backend
        self._nursery = nursery
        self._peer = peer
        self._calls: dict[CallCore, tuple[Call, trio.CancelScope]] = {}
        self._session = BackendSession(backend.slots, backend.formats, backend.counters, trio.current_time())
        self._pump = FramePump(websocket, self._session, self._dispatch, self._written)

    async def run(self) -> None:
        """Serve until either end closes the connection; its calls are over then."""
        log.info("transceiver connected", extra={"peer": self._peer})
        reason = "given up"
        try:
            await self._pump.run()
        except ConnectionClosed as closed:
            reason = f"{closed.reason.code} {closed.reason.reason or closed.reason.name}" if closed.reason else "closed"
        finally:
            if self._session.closing is not None:
                reason = self._session.closing.detail
            self._session.lost()
            self._dispatch(trio.current_time())
            await self._pump.close()
        log.info("transceiver disconnected", extra={"peer": self._peer, "reason": reason})

    @property
    def busy(self) -> bool:
        """Whether a call is not over yet, or its handler not done."""
        return bool(self._calls or self._session.calls)

    def drain(self) -> None:
        """Take no new calls."""
        self._session.drain()
        self._pump.wake()

    def leave(self) -> None:
        """Close the connection."""
        self._session.leave()
        self._pump.wake()

    def _written(self) -> None:
        self._dispatch(trio.current_time())

    def _dispatch(self, now: float) -> None:
        while (event := self._session.poll_event()) is not None:
            core = event.call
            if isinstance(event, CallOffered):
                self._calls[core] = (Call(core, self._pump.wake), trio.CancelScope())
                self._nursery.start_soon(self._run_handler, core)
                continue
            if core in self._calls:
                call, scope = self._calls[core]
                call.notice()
                if core.state is CallState.OVER:
                    scope.deadline = min(scope.deadline, now + GRACE)
            if core.state is CallState.OVER:
                self._backend.went_quiet()

    async def _run_handler(self, core: CallCore) -> None:
        """Run the handler of a call. Its failure is one line of the log and the end of that call."""
        call, scope = self._calls[core]
        try:
            with scope:
                await self._backend.handler(call)
            if core.state is CallState.OFFERED:
                core.refuse("declined", "the handler did not take the call")
            core.hang_up()
        except RefuseCall as refusal:
            core.refuse(refusal.code, refusal.message)
        except Exception:
            log.exception("a handler failed", extra={"call": call.id})
            core.end("backend_error")
        finally:
            del self._calls[core]
            self._pump.wake()
            self._backend.went_quiet()
