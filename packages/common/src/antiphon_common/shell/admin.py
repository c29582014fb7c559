"""HTTP servers on Hypercorn, and the admin port that every service has; under Trio or asyncio."""

import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

import anyio
import hypercorn.trio
import trio
from anyio.abc import TaskStatus
from hypercorn.config import Config
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from antiphon_common.settings import Address

logger = logging.getLogger(__name__)

BACKLOG = 128
"""Connections the kernel holds while the process is busy."""

GRACEFUL_SECONDS = 1.0
"""How long requests in progress may go on once the server is cancelled or told to end."""


def listen_tcp(host: str, port: int) -> socket.socket:
    """Return a non-blocking listening socket; an OSError says which address could not be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        hint = "; is another copy running?" if error.errno == errno.EADDRINUSE else ""
        raise OSError(error.errno, f"cannot listen on {Address(host, port)}: {error.strerror}{hint}") from None
    listener.setblocking(False)
    return listener


async def serve_http(
    app: Any,
    host: str,
    port: int,
    *,
    task_status: TaskStatus[Address] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application over plain HTTP until cancelled. The started value is the bound address."""
    listener = listen_tcp(host, port)
    bound = Address(*listener.getsockname()[:2])
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = logging.getLogger("hypercorn.error")
    config.graceful_timeout = GRACEFUL_SECONDS
    config.include_server_header = False
    task_status.started(bound)  # what comes before the server takes it waits in the backlog
    if anyio.get_cancelled_exc_class() is trio.Cancelled:
        await hypercorn.trio.serve(app, config)
    else:
        from hypercorn.asyncio import serve  # only backends run under asyncio

        await serve(app, config, shutdown_trigger=anyio.sleep_forever)  # else it takes the signals of the process


async def serve_admin(
    address: Address,
    healthy: Callable[[], bool],
    ready: Callable[[], bool],
    registry: CollectorRegistry,
    *,
    task_status: TaskStatus[Address] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve /healthz, /readyz (200, or 503 while the callable returns False) and /metrics until cancelled."""

    def answer(condition: Callable[[], bool]) -> Callable[[Request], Any]:
        async def respond(request: Request) -> Response:
            return PlainTextResponse("ok\n") if condition() else PlainTextResponse("not now\n", status_code=503)

        return respond

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    routes = [Route("/healthz", answer(healthy)), Route("/readyz", answer(ready)), Route("/metrics", metrics)]
    await serve_http(Starlette(routes=routes), address.host, address.port, task_status=task_status)
