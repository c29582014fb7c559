"""Backends of the SDK inside the test's own process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
from anyio.from_thread import start_blocking_portal

from antiphon_backend import Handler, serve_backend
from antiphon_common.shell.supervise import Runtime


@asynccontextmanager
async def serving(handler: Handler, *, runtime: Runtime = "trio", **options: Any) -> AsyncIterator[str]:
    """Serve `handler` on loopback for the length of a block, under asyncio in a thread; its value is the URL."""
    serve = partial(serve_backend, handler, "127.0.0.1", 0, **options)
    if runtime == "asyncio":
        with start_blocking_portal("asyncio") as portal:
            served, url = portal.start_task(serve)
            yield url
            served.cancel()
        return
    async with trio.open_nursery() as nursery:
        yield await nursery.start(serve)
        nursery.cancel_scope.cancel()
