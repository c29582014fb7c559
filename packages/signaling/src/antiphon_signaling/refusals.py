"""Refused requests: the error object of the Realtime API, over HTTP and WebSocket."""

from typing import Any

import msgspec

from antiphon_common.errors import AntiphonError

RETRY_AFTER_SECONDS = "2"
"""Retry-After of a refused call, unless a transceiver sends another one."""

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


class RefusedError(AntiphonError):
    """A request that ends with an error. Raise it; the HTTP and WebSocket sides send its `error` object.

    `code` is one word for programs, `message` a sentence for people. `param` names the part of the request at fault.
    """

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = headers or {}

    @property
    def error(self) -> dict[str, Any]:
        """The error object."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"message": self.message, "type": kind, "code": self.code, "param": self.param}

    def body(self) -> bytes:
        """Return the JSON body of an HTTP answer."""
        return msgspec.json.encode({"error": self.error})


def unauthorized(code: str, message: str) -> RefusedError:
    """Return 401: no valid credential. WWW-Authenticate names the scheme (RFC 6750 §3)."""
    return RefusedError(401, code, message, headers={"WWW-Authenticate": "Bearer"})


def no_such_call() -> RefusedError:
    """Return 404: no transceiver has the call, or the id is malformed."""
    return RefusedError(404, "call_not_found", "there is no such call", param="call_id")


def busy(code: str, message: str, retry_after: str | None = None) -> RefusedError:
    """Return 503: no capacity now. `retry_after` is in seconds (RFC 9110 §10.2.3)."""
    return RefusedError(503, code, message, headers={"Retry-After": retry_after or RETRY_AFTER_SECONDS})
