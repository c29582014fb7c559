"""Authentication of requests to a control API."""

import time
from collections.abc import Generator

import httpx

from antiphon_common.control import authorization
from antiphon_common.keys import DerivedKeys


class ControlAuth(httpx.Auth):
    """Adds the current control key to each request. Pass it to an httpx client as `auth`."""

    def __init__(self, keys: DerivedKeys) -> None:
        self._keys = keys

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = authorization(self._keys, time.time())
        yield request
