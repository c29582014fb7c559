"""Authentication of a control API's requests."""

import time
from typing import Any

import msgspec

from antiphon_common.control import Failure, is_authorized
from antiphon_common.keys import DerivedKeys
from antiphon_common.shell.http1 import App

UNAUTHORIZED = Failure("unauthorized", "the Bearer token is not a control key of this secret file")


def require_key(app: App, keys: DerivedKeys) -> App:
    """Return an ASGI application that answers 401 to requests without a valid control key, before it reads their
    body."""

    async def guard(scope: Any, receive: Any, send: Any) -> None:
        given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
        if len(given) == 1 and is_authorized(keys, given[0], time.time()):
            await app(scope, receive, send)
            return
        body = msgspec.json.encode(UNAUTHORIZED)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"www-authenticate", b"Bearer"),
        ]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return guard
