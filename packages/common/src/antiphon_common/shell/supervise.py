"""Runs a service as a process: signals, exit codes, and what is printed when it cannot start."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import anyio

from antiphon_common.errors import AntiphonError
from antiphon_common.settings import SettingsError

SHUTDOWN_SECONDS = 5.0
"""How long a cancelled service may take to put things in order before the process is ended anyway."""

Service = Callable[..., Coroutine[Any, Any, None]]

Runtime = Literal["trio", "asyncio"]


def run_service(
    serve: Service, *args: object, ready: Callable[[Any], None] | None = None, runtime: Runtime = "trio"
) -> None:
    """Run `serve(*args, task_status=…)` until it returns or SIGINT or SIGTERM comes, which is a clean end.

    `ready` is called with the started value. What keeps the service from starting and is no bug (an address in use, a
    missing file) is one line on standard error and exit code 1; settings that cannot be used give 2. Errors after the
    start keep their traceback. A second signal, or `SHUTDOWN_SECONDS`, ends what does not end by itself, with code 1.
    """
    if code := anyio.run(_supervise, serve, args, ready, backend=runtime):
        raise SystemExit(code)


@contextmanager
def explained() -> Iterator[None]:
    """Do the same for what a program does before `run_service`: one line and an exit code in place of a traceback."""
    try:
        yield
    except Exception as error:
        raise SystemExit(_explain_failure(error)) from None


async def _supervise(serve: Service, args: tuple[object, ...], ready: Callable[[Any], None] | None) -> int:
    code = 0
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as watch:
            async with anyio.create_task_group() as service:
                watch.start_soon(_end_on_signal, signals, service.cancel_scope)
                try:
                    value: Any = await service.start(serve, *args)
                except Exception as error:
                    code = _explain_failure(error)
                else:
                    if ready is not None:
                        ready(value)
            watch.cancel_scope.cancel()
    return code


async def _end_on_signal(signals: AsyncIterator[int], service: anyio.CancelScope) -> None:
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
