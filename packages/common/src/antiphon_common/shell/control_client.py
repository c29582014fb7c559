"""What asks a control API: the key goes with each request."""

import time
from collections.abc import Generator

import httpx

from antiphon_common.control import authorization
from antiphon_common.keys import DerivedKeys


class ControlAuth(httpx.Auth):
    """Adds the control key that is current at each request."""

    def __init__(self, keys: DerivedKeys) -> None:
        self._keys = keys

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = authorization(self._keys, time.time())
        yield request
