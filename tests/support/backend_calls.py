"""Backends of the SDK inside the test's own process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from antiphon_backend import Handler, serve_backend


@asynccontextmanager
async def serving(handler: Handler, **options: Any) -> AsyncIterator[str]:
    """Serve `handler` on loopback for the length of a block; its value is the URL."""
    async with trio.open_nursery() as nursery:
        yield await nursery.start(partial(serve_backend, handler, "127.0.0.1", 0, **options))
        nursery.cancel_scope.cancel()
