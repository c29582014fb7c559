"""Cross-origin requests (Fetch §3.3): pages of any origin may send them, with a key in a header but never in a cookie.

A page on the public internet may reach a server on a private network, if the browser asks in the preflight (Private
Network Access). Neither replaces authentication: `authentication` checks keys, and the Origin on loopback.
"""

from collections.abc import Iterator
from typing import Any

from antiphon_common.shell.http1 import App

METHODS = b"GET, POST, PATCH, DELETE, OPTIONS"
EXPOSED = b"Location, ETag, Accept-Patch, Retry-After"
"""Headers of answers that a page may read."""
PREFLIGHT_SECONDS = 600
"""Seconds for which a browser may cache the answer to a preflight."""
NETWORKS = (b"private-network", b"local-network")
"""Names in the preflight if the server's address is less public than the page's. The name has changed once."""


def allow_pages(app: App) -> App:
    """Return an ASGI application that answers preflights itself, and lets pages read the answers of `app`."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        asked = dict(scope["headers"])
        if scope["method"] == "OPTIONS" and b"origin" in asked and b"access-control-request-method" in asked:
            await send({"type": "http.response.start", "status": 200, "headers": list(_preflight(asked))})
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_readable(message: Any) -> None:
            if message["type"] == "http.response.start" and b"origin" in asked:
                readable = [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", EXPOSED)]
                message = {**message, "headers": [*message.get("headers", ()), *readable]}
            await send(message)

        await app(scope, receive, send_readable)

    return serve


def _preflight(asked: dict[bytes, bytes]) -> Iterator[tuple[bytes, bytes]]:
    yield b"content-length", b"0"
    yield b"access-control-allow-origin", b"*"
    yield b"access-control-allow-methods", METHODS
    yield b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS
    if b"access-control-request-headers" in asked:  # "*" would not cover Authorization
        yield b"access-control-allow-headers", asked[b"access-control-request-headers"]
    for network in NETWORKS:
        if asked.get(b"access-control-request-" + network, b"").lower() == b"true":
            yield b"access-control-allow-" + network, b"true"
