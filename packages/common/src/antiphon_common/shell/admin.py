"""Plain HTTP servers, and the admin port of every service. Runs under Trio or asyncio."""

import errno
import socket
from collections.abc import Callable, Collection
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import anyio
from anyio.abc import TaskStatus
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from antiphon_common.settings import Address
from antiphon_common.shell.http1 import App, Timeouts
from antiphon_common.shell.http_server import HttpServer

BACKLOG = 1024
"""Connections that the kernel queues while the process is busy. Its own limit may be lower (net.core.somaxconn)."""

ADMIN_CONNECTIONS = 64
"""Connections of an admin port at once, for probes and a few scrapers. Each takes a descriptor from calls."""

INTERNAL_SUFFIXES = (".localhost", ".svc", ".svc.cluster.local", ".internal")
"""Names that no public DNS resolves (RFC 6761, Kubernetes, ICANN's reservation of .internal)."""


def listen_tcp(host: str, port: int) -> socket.socket:
    """Return a non-blocking listening socket.

    Raises:
        OSError: the address cannot be bound. The message has it.
    """
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
    app: App,
    host: str,
    port: int,
    *,
    connections: int | None = None,
    is_shared: Callable[[str], bool] = lambda host: False,
    timeouts: Timeouts = Timeouts(),  # noqa: B008
    task_status: TaskStatus[Address] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application over HTTP/1.1 until cancelled, with at most `connections`.

    An address for which `is_shared` returns True has no limits of its own. The started value is the bound address.

    Raises:
        OSError: the address cannot be bound.
    """
    listener = listen_tcp(host, port)
    task_status.started(Address(*listener.getsockname()[:2]))  # earlier connections wait in the backlog
    await HttpServer(app, timeouts, connections, is_shared).run(listener)


async def serve_admin(
    address: Address,
    healthy: Callable[[], bool],
    ready: Callable[[], bool],
    registry: CollectorRegistry,
    *,
    names: Collection[str] = (),
    task_status: TaskStatus[Address] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve /healthz, /readyz (200, or 503 while the callable returns False) and /metrics until cancelled.

    `names` are host names that clients may use besides those that `is_internal_name` accepts.
    """

    def answer(condition: Callable[[], bool]) -> Callable[[Request], Any]:
        async def respond(request: Request) -> Response:
            return PlainTextResponse("ok\n") if condition() else PlainTextResponse("not now\n", status_code=503)

        return respond

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    routes = [Route("/healthz", answer(healthy)), Route("/readyz", answer(ready)), Route("/metrics", metrics)]
    app = _only_for(Starlette(routes=routes), names)
    await serve_http(app, address.host, address.port, connections=ADMIN_CONNECTIONS, task_status=task_status)


def is_internal_name(host: str) -> bool:
    """Return True if a `Host` header has a name that a foreign web page cannot use.

    Those are IP addresses, names of one label, and names that no public DNS resolves. An attacker may make any other
    name resolve to this address (DNS rebinding).
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return False
    return _is_address(name) or "." not in name or name.endswith(INTERNAL_SUFFIXES)


def _only_for(app: App, names: Collection[str]) -> App:
    """Answer requests under foreign names with 421 (RFC 9110 §15.5.20)."""
    known = {name.lower() for name in names}

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "localhost")
        if is_internal_name(host) or host.rpartition(":")[0].lower() in known or host.lower() in known:
            await app(scope, receive, send)
        else:
            refusal = PlainTextResponse("this name is not served here: --admin-name adds names\n", 421)
            await refusal(scope, receive, send)

    return guarded


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
