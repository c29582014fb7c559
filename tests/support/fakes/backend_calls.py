"""Backends of the SDK within the test's process."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import trio
from anyio.from_thread import start_blocking_portal

from antiphon_backend import Handler, serve_backend
from antiphon_common.shell.supervise import Runtime


@asynccontextmanager
async def serving(handler: Handler, *, runtime: Runtime = "trio", **options: Any) -> AsyncIterator[str]:
    """Serve `handler` on loopback within the block, under Trio or under asyncio in a thread. Yield the URL."""
    if runtime == "asyncio":
        with serving_in_thread(handler, **options) as url:
            yield url
        return
    async with trio.open_nursery() as nursery:
        yield await nursery.start(partial(serve_backend, handler, "127.0.0.1", 0, **options))
        nursery.cancel_scope.cancel()


@contextmanager
def serving_in_thread(handler: Handler, **options: Any) -> Iterator[str]:
    """Serve `handler` on loopback within the block, under asyncio in a thread. Yield the URL."""
    with start_blocking_portal("asyncio") as portal:
        served, url = portal.start_task(partial(serve_backend, handler, "127.0.0.1", 0, **options))
        yield url
        served.cancel()
