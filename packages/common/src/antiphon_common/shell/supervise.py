"""Runs a service as a process: signals, exit codes, and what is printed when it cannot start."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import anyio

from antiphon_common.errors import AntiphonError
from antiphon_common.settings import SettingsError
from antiphon_common.shell.wakeup import Wakeup

SHUTDOWN_SECONDS = 5.0
"""Seconds that a cancelled service may take to clean up. Then the process ends anyway."""

DRAIN_CHECK_SECONDS = 0.1
"""Seconds between two checks of a draining service whether its work is done."""

Service = Callable[..., Coroutine[Any, Any, None]]

Runtime = Literal["trio", "asyncio"]


class Drain:
    """Lets a service finish its work before it stops. Once begun, it accepts no new work until it is cancelled.

    Work in progress has until `deadline`. A service returns from `wait_left` when it is to stop. Runs under Trio and
    asyncio.
    """

    def __init__(self, seconds: float) -> None:
        """Work in progress has `seconds`, unless `begin` sets another time."""
        self.seconds = seconds
        self.deadline: float | None = None
        """Time of `anyio.current_time` by which work has to end; None while not draining."""
        self.leaving = False
        """True if the service stops afterwards, so that it cannot accept work again."""
        self._changed = Wakeup()

    @property
    def begun(self) -> bool:
        return self.deadline is not None

    def begin(self, seconds: float | None = None) -> None:
        """Accept no new work from now on. A second call sets a new deadline."""
        self.deadline = anyio.current_time() + (self.seconds if seconds is None else seconds)
        self._changed.ring()

    def leave(self) -> None:
        """Begin, and stop the service afterwards."""
        self.leaving = True
        self.begin()

    def cancel(self) -> bool:
        """Accept new work again. Return False if the service is about to stop."""
        if not self.leaving:
            self.deadline = None
            self._changed.ring()
        return not self.leaving

    async def wait(self) -> None:
        """Wait until the drain has begun."""
        while not self.begun:
            await self._changed.wait()

    async def wait_left(self, idle: Callable[[], bool], end: Callable[[], Awaitable[None]] | None = None) -> None:
        """Wait until the service is to stop, and `idle` returns True or the deadline has passed.

        If work is left at the deadline, `end` is called, also if the service does not stop.
        """
        while True:
            await self.wait()
            while self.begun and not idle():
                assert self.deadline is not None
                if anyio.current_time() >= self.deadline:
                    if end is not None:
                        await end()
                    break
                await anyio.sleep(DRAIN_CHECK_SECONDS)
            if self.leaving:
                return
            await self._changed.wait()


def run_service(
    serve: Service,
    *args: object,
    ready: Callable[[Any], None] | None = None,
    drain: Drain | None = None,
    beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
    runtime: Runtime = "trio",
) -> None:
    """Run `serve(*args, task_status=…)` until it returns, or until SIGINT or SIGTERM, which are a clean end.

    With `drain`, which `serve` has too, SIGTERM begins the drain; SIGINT or a second SIGTERM ends the service. `ready`
    is called with the started value. `beside` runs as long as the service. A service that does not end after a signal
    is ended by another one, or after `SHUTDOWN_SECONDS`, with code 1. Errors after the start keep their traceback.

    Raises:
        SystemExit: with 1 and one line on standard error if the service cannot start (an address in use, a missing
        file);
            with 2 if its settings cannot be used.
    """
    if code := anyio.run(_Supervisor(serve, args, ready, drain, beside).run, backend=runtime):
        raise SystemExit(code)


@contextmanager
def explained() -> Iterator[None]:
    """Print errors of the context as one line, in place of a traceback, for code that runs before `run_service`.

    Raises:
        SystemExit: the context raised an exception; the code is as in `run_service`.
    """
    try:
        yield
    except Exception as error:
        raise SystemExit(_explain_failure(error)) from None


class _Supervisor:
    def __init__(
        self,
        serve: Service,
        args: tuple[object, ...],
        ready: Callable[[Any], None] | None,
        drain: Drain | None,
        beside: Callable[[], Coroutine[Any, Any, None]] | None,
    ) -> None:
        self._serve = serve
        self._args = args
        self._ready = ready
        self._drain = drain
        self._beside = beside
        self._started = False

    async def run(self) -> int:
        """Run the service to its end; return the exit code."""
        code = 0
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with anyio.create_task_group() as watch:
                async with anyio.create_task_group() as service:
                    watch.start_soon(self._end_on_signal, signals, service.cancel_scope)
                    try:
                        value: Any = await service.start(self._serve, *self._args)
                    except Exception as error:
                        code = _explain_failure(error)
                    else:
                        self._begin(value)
                        if self._beside is not None:
                            watch.start_soon(self._beside)
                watch.cancel_scope.cancel()
        return code

    def _begin(self, value: Any) -> None:
        self._started = True
        if self._ready is not None:
            self._ready(value)

    async def _end_on_signal(self, signals: AsyncIterator[int], service: anyio.CancelScope) -> None:
        number = await anext(signals)
        if number == signal.SIGTERM and self._drain is not None and self._started:
            self._drain.leave()
            with anyio.move_on_after(self._drain.seconds + SHUTDOWN_SECONDS):
                await anext(signals)
        service.cancel()
        with anyio.move_on_after(SHUTDOWN_SECONDS):
            await anext(signals)
        print("the service did not end in time", file=sys.stderr, flush=True)
        os._exit(1)


def _explain_failure(error: Exception) -> int:
    """Print a line for each reason and return the exit code; raise again what is a bug."""
    reasons = _leaves(error)
    if not all(isinstance(reason, OSError | AntiphonError) for reason in reasons):
        raise error
    for line in dict.fromkeys(_sentence(reason) for reason in reasons):
        print(f"cannot start: {line}", file=sys.stderr)
    return 2 if any(isinstance(reason, SettingsError) for reason in reasons) else 1


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
