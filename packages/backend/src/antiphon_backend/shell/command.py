"""A backend as a program: its command line, and how it ends."""

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import anyio
from anyio.abc import TaskStatus
from prometheus_client import CollectorRegistry

from antiphon_backend.shell.server import DEFAULT_FORMATS, DEFAULT_SLOTS, Handler, serve_backend
from antiphon_common.formats import FORMATS
from antiphon_common.logs import configure
from antiphon_common.settings import Address
from antiphon_common.settings.values import read_address, read_count, read_seconds
from antiphon_common.shell.admin import serve_admin
from antiphon_common.shell.supervise import Drain, Runtime, run_service

DRAIN_SECONDS = 25.0
"""How long calls may go on after SIGTERM: less than the 30 s that Kubernetes waits before it kills."""

T = TypeVar("T")


class _Options(NamedTuple):
    listen: Address
    slots: int
    formats: tuple[str, ...]
    drain: float
    admin: Address | None


def run_backend(
    handler: Handler,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    runtime: Runtime = "trio",
    argv: Sequence[str] | None = None,
) -> None:
    """Run a backend as a process: read the command line, print `ready ws://…`, serve until a signal.

    `runtime` is "trio" or "asyncio": what the libraries need that the handler uses. SIGTERM takes no new calls and
    waits for those that run; SIGINT, or a second signal, ends at once.
    """
    options = _parse(handler, formats, argv)
    configure()
    drain = Drain(options.drain)
    run_service(_serve, handler, options, drain, ready=_announce, drain=drain, runtime=runtime)


def _announce(url: str) -> None:
    print(f"ready {url}", flush=True)


async def _serve(handler: Handler, options: _Options, drain: Drain, *, task_status: TaskStatus[str]) -> None:
    registry = CollectorRegistry()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_end_in_time, drain, tasks.cancel_scope)
        if options.admin is not None:
            await tasks.start(serve_admin, options.admin, lambda: True, lambda: not drain.begun, registry)
        await serve_backend(
            handler,
            options.listen.host,
            options.listen.port,
            slots=options.slots,
            formats=options.formats,
            drain=drain,
            registry=registry,
            task_status=task_status,
        )
        tasks.cancel_scope.cancel()


async def _end_in_time(drain: Drain, service: anyio.CancelScope) -> None:
    await drain.wait_left(lambda: False)  # it returns by itself once its calls have ended
    service.cancel()


def _parse(handler: Handler, formats: Sequence[str], argv: Sequence[str] | None) -> _Options:
    description = (handler.__doc__ or "An inference backend.").partition("\n")[0]
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    address, default = _argument(read_address), Address("127.0.0.1", 9000)
    listen, slots = f"where transceivers connect (default: {default})", f"calls at once (default: {DEFAULT_SLOTS})"
    audio = f"audio taken, best first (default: {' '.join(formats)})"
    limit = f"what calls still have after SIGTERM (default: {DRAIN_SECONDS:g})"
    add("--listen", type=address, default=default, metavar="HOST:PORT", help=listen)
    add("--slots", type=_argument(read_count), default=DEFAULT_SLOTS, metavar="N", help=slots)
    add("--formats", nargs="+", choices=FORMATS, default=formats, metavar="FORMAT", help=audio)
    seconds = _argument(read_seconds)
    add("--drain", "--drain-seconds", type=seconds, default=DRAIN_SECONDS, metavar="SECONDS", help=limit)
    add("--admin", type=address, metavar="HOST:PORT", help="health, readiness and metrics over HTTP")
    options = parser.parse_args(argv)
    return _Options(**{**vars(options), "formats": tuple(options.formats)})


def _argument(read: Callable[[str], T]) -> Callable[[str], T]:
    """Convert a reader of settings to an argparse type whose errors keep the reader's messages."""

    def parse(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse
