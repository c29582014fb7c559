"""The shell of a backend, under Trio or asyncio: listens for transceivers, and runs a handler for each call."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import anyio
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskGroup, TaskStatus
from prometheus_client import CollectorRegistry

from antiphon_backend.core import CallCore, CallOffered, CallState, Slots, TransceiverConnection
from antiphon_backend.shell.call import Call, RefuseCall
from antiphon_common.formats import AudioFormat
from antiphon_common.frame_connection import ConnectionCounters
from antiphon_common.metrics import export_counters, export_gauge
from antiphon_common.settings import Address
from antiphon_common.shell.frame_pump import CLOSE_TIMEOUT, FramePump
from antiphon_common.shell.wakeup import Wakeup
from antiphon_common.shell.websocket import WebSocket, WebSocketClosed

log = logging.getLogger(__name__)

Handler = Callable[[Call], Awaitable[None]]

DEFAULT_SLOTS = 100
DEFAULT_FORMATS = ("pcm16/24000", "pcm16/16000", "pcm16/48000")

GRACE = 10.0
"""Seconds a handler has to finish once its call is over."""

HANDSHAKE_TIMEOUT = 5.0
"""Seconds for the WebSocket handshake."""

MAX_CONNECTIONS = 512
"""Connections at once, including those that have not sent a hello: most processes may open 1,024 files. A connection
that sends nothing ends after `HANDSHAKE_TIMEOUT` or `HELLO_TIMEOUT`."""

ACCEPT_PAUSE = 0.1
"""Seconds without new connections after `accept` failed, most often because the process has no descriptor left."""


class CallCounters:
    """Counts of calls by outcome. One is shared by all connections of a server."""

    __slots__ = ("failed", "offered", "refused")

    def __init__(self) -> None:
        self.offered = 0
        self.refused = 0
        self.failed = 0


class Waitable(Protocol):
    """An event of Trio, asyncio or anyio."""

    async def wait(self) -> Any: ...


async def serve_backend(
    handler: Handler,
    host: str,
    port: int,
    *,
    slots: int = DEFAULT_SLOTS,
    formats: Sequence[str] = DEFAULT_FORMATS,
    drain: Waitable | None = None,
    registry: CollectorRegistry | None = None,
    task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `handler` to transceivers until cancelled, under Trio or asyncio. The started value is `ws://HOST:PORT`.

    `slots` are the calls taken at once, over all connections; `formats` the audio that is taken, best first. Once
    `drain` is set no new calls are taken, and the function returns when the last one is over. Metrics go into
    `registry`.
    """
    for name in formats:
        AudioFormat.parse(name)
    backend = _Backend(handler, Slots(slots), formats)
    if registry is not None:
        backend.export(registry)
    listener = await anyio.create_tcp_listener(local_host=host, local_port=port)
    async with anyio.create_task_group() as connections:
        async with listener, anyio.create_task_group() as listening:
            listening.start_soon(_stop_on, drain, listening.cancel_scope)
            for one in listener.listeners:
                assert isinstance(one, SocketListener)
                listening.start_soon(backend.listen, one, connections)
            address = listener.listeners[0].extra(SocketAttribute.local_address)
            task_status.started(f"ws://{Address(str(address[0]), int(address[1]))}")
        await backend.drain()
        connections.cancel_scope.cancel()


async def _stop_on(drain: Waitable | None, listening: anyio.CancelScope) -> None:
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
        self.calls = CallCounters()
        self._connections: set[_Connection] = set()
        self._streams = 0
        self._quiet = Wakeup()

    def export(self, registry: CollectorRegistry) -> None:
        """Register everything a backend counts."""
        export_counters(registry, "antiphon_backend", self.counters)
        export_counters(registry, "antiphon_backend_calls", self.calls)
        export_gauge(registry, "antiphon_backend_calls", "Calls at this moment", lambda: self.slots.taken)
        export_gauge(registry, "antiphon_backend_slots", "Calls at once, at most", lambda: self.slots.limit)
        export_gauge(registry, "antiphon_backend_connections", "Transceivers", lambda: len(self._connections))

    async def listen(self, listener: SocketListener, connections: TaskGroup) -> None:
        """Take connections until cancelled."""
        while True:
            try:
                stream = await listener.accept()
            except (OSError, anyio.BrokenResourceError) as error:
                log.warning("a connection could not be taken", extra={"reason": error.__cause__ or error})
                await anyio.sleep(ACCEPT_PAUSE)
            else:
                if self._streams < MAX_CONNECTIONS:
                    connections.start_soon(self._serve_stream, stream)
                    self._streams += 1
                else:
                    await anyio.aclose_forcefully(stream)

    async def drain(self) -> None:
        """Take no new calls; when the last is over, close the connections."""
        log.info("draining", extra={"calls": self.slots.taken})
        for connection in self._connections:
            connection.drain()
        while any(connection.busy for connection in self._connections):
            await self._quiet.wait()
        for connection in self._connections:
            connection.leave()
        with anyio.move_on_after(CLOSE_TIMEOUT):
            while self._connections:
                await self._quiet.wait()

    def went_quiet(self) -> None:
        """A call, a handler or a connection is done."""
        self._quiet.ring()

    async def _serve_stream(self, stream: SocketStream) -> None:
        """Serve one transceiver. Whatever happens on its connection stays there."""
        try:
            async with stream, anyio.create_task_group() as handlers:
                with anyio.fail_after(HANDSHAKE_TIMEOUT):
                    websocket = await WebSocket.accept(stream)
                peer = str(Address(*stream.extra(SocketAttribute.remote_address)[:2]))
                await self._serve(_Connection(self, websocket, peer, handlers))
        except* TimeoutError:
            log.info("no WebSocket", extra={"reason": f"no handshake within {HANDSHAKE_TIMEOUT:g} s"})
        except* WebSocketClosed as group:
            log.info("no WebSocket", extra={"reason": str(group.exceptions[0])})
        except* Exception:
            log.exception("a connection failed")
        finally:
            self._streams -= 1

    async def _serve(self, connection: "_Connection") -> None:
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self.went_quiet()


class _Connection:
    """One transceiver: its session, and the `handlers` of its calls."""

    def __init__(self, backend: _Backend, websocket: WebSocket, peer: str, handlers: TaskGroup) -> None:
        self._backend = backend
        self._handlers = handlers
        self._peer = peer
        self._calls: dict[CallCore, tuple[Call, anyio.CancelScope]] = {}
        self._session = TransceiverConnection(backend.slots, backend.formats, backend.counters, anyio.current_time())
        self._pump = FramePump(websocket, self._session, self._dispatch, self._written)

    async def run(self) -> None:
        """Serve until either end closes the connection; its calls are over then."""
        log.info("transceiver connected", extra={"peer": self._peer})
        reason = "given up"
        try:
            await self._pump.run()
        except WebSocketClosed as closed:
            reason = str(closed)
        finally:
            if self._session.closing is not None:
                reason = self._session.closing.detail
            self._session.lost()
            self._dispatch(anyio.current_time())
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
        self._dispatch(anyio.current_time())

    def _dispatch(self, now: float) -> None:
        while (event := self._session.poll_event()) is not None:
            core = event.call
            if isinstance(event, CallOffered):
                self._backend.calls.offered += 1
                self._calls[core] = (Call(core, self._pump.wake), anyio.CancelScope())
                self._handlers.start_soon(self._run_handler, core)
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
                self._backend.calls.refused += 1
                core.refuse("declined", "the handler did not take the call")
            core.hang_up()
        except RefuseCall as refusal:
            self._backend.calls.refused += 1
            core.refuse(refusal.code, refusal.message)
        except Exception:
            self._backend.calls.failed += 1
            log.exception("a handler failed", extra={"call": call.id})
            core.end("backend_error")
        finally:
            del self._calls[core]
            self._session.finished()
            self._pump.wake()
            self._backend.went_quiet()
