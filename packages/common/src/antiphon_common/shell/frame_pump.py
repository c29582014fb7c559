"""Passes messages between a WebSocket and a core of frames. One task reads, one writes, and one handles timeouts.

Both ends of a connection use it. A backend runs it under asyncio or Trio.
"""

from collections.abc import Awaitable, Callable, Iterator
from math import inf
from typing import Protocol

import anyio
from anyio.lowlevel import checkpoint

from antiphon_common.frame_connection import MESSAGE_BUDGET, CloseCode, Closing
from antiphon_common.shell.wakeup import Wakeup

COALESCING_DELAY = 0.005
"""Smallest time between two messages, in seconds. So each message of a busy connection carries frames of several calls:
a system call and a wake-up of the other end cost far more than a frame. After a longer pause, a frame is sent at
once."""

CLOSE_TIMEOUT = 2.0
"""Seconds for the closing handshake. After that, the connection is aborted."""

CANCELLED_CLOSE_TIMEOUT = 0.1
"""Seconds for a close frame when the pump was cancelled. It waits for no answer, since the reading task was cancelled
too."""

MAX_REASON_BYTES = 123
"""Largest reason in a WebSocket close frame, in bytes (RFC 6455 §5.5)."""


class MessageSocket(Protocol):
    """The part of a `WebSocket` that a `FramePump` uses. Tests pass a fake."""

    async def get_message(self) -> str | bytes: ...

    async def send_message(self, message: str | bytes) -> None: ...

    async def aclose(self, code: int = 1000, reason: str | None = None) -> None: ...


class FrameCore(Protocol):
    """The core that a `FramePump` drives. `BackendConnection` and `TransceiverConnection` implement it."""

    @property
    def closing(self) -> Closing | None: ...

    def receive_in_steps(self, message: bytes | str, now: float) -> Iterator[None]: ...

    def handle_timeout(self, now: float) -> None: ...

    def poll_transmit(self) -> bytes | None: ...

    def poll_timeout(self) -> float: ...


class FramePump:
    """Runs one connection: passes messages between its WebSocket and its core. Call `run`, then `close`.

    `dispatch` drains the core. It is called with the event loop's time after each step of a message and after each
    timeout. `written` is called after each message sent. Other tasks run between two steps.
    """

    def __init__(
        self,
        websocket: MessageSocket,
        core: FrameCore,
        dispatch: Callable[[float], None],
        written: Callable[[], None] = lambda: None,
    ) -> None:
        self._websocket = websocket
        self._core = core
        self._dispatch = dispatch
        self._written = written
        self._idle_writer = Wakeup()
        self._scope = anyio.CancelScope()
        self._failure: Exception | None = None
        self._close_timeout = CANCELLED_CLOSE_TIMEOUT

    def wake(self) -> None:
        """Send the messages of the core soon. It costs little while a message is being sent."""
        self._idle_writer.ring()

    async def run(self) -> None:
        """Run until the core abandons the connection. Raises the exception of the WebSocket, such as
        `WebSocketClosed`."""
        async with anyio.create_task_group() as tasks:
            self._scope = tasks.cancel_scope
            for loop in (self._read, self._write, self._keep_time):
                tasks.start_soon(self._until_over, loop)
        self._close_timeout = CLOSE_TIMEOUT
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """Close the WebSocket with the code and reason of the core. It takes a bounded time, even when cancelled."""
        code, detail = self._core.closing or Closing(CloseCode.NORMAL, "")
        reason = detail.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        with anyio.move_on_after(self._close_timeout, shield=True):
            await self._websocket.aclose(code, reason)

    async def _until_over(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Run one loop, and end all loops when it ends. The first failure is kept, and `run` raises it."""
        try:
            await loop()
        except Exception as failure:
            self._failure = self._failure or failure
        self._scope.cancel()

    async def _read(self) -> None:
        core = self._core
        while core.closing is None:
            message = await self._websocket.get_message()
            for _ in core.receive_in_steps(message, anyio.current_time()):
                self._dispatch(anyio.current_time())
                self.wake()
                await checkpoint()

    async def _write(self) -> None:
        core = self._core
        while core.closing is None:
            message = core.poll_transmit()
            if message is None:
                await self._idle_writer.wait()
                continue
            next_message_at = anyio.current_time() + COALESCING_DELAY
            await self._websocket.send_message(message)
            self._written()
            if len(message) < MESSAGE_BUDGET:
                await anyio.sleep_until(next_message_at)

    async def _keep_time(self) -> None:
        core = self._core
        while (deadline := core.poll_timeout()) < inf:
            await anyio.sleep_until(deadline)
            now = anyio.current_time()
            core.handle_timeout(now)
            self._dispatch(now)
            self.wake()
