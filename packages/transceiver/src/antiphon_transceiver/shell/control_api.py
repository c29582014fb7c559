"""The control API: JSON over HTTP, for signaling servers and relays. `antiphon_common.control` has its vocabulary."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from math import inf
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from antiphon_common.control import CallList, CallRequest, Failure, IceUpdate, LinkInfo, PreviousOwner, decode
from antiphon_common.errors import AntiphonError, DecodeError, LocalProtocolError
from antiphon_common.json_objects import LimitError, check_json
from antiphon_common.keys import DerivedKeys
from antiphon_common.routing import ClusterNetworks, Owner
from antiphon_common.shell.control_server import require_key
from antiphon_common.shell.http1 import App
from antiphon_transceiver.backends import BackendError
from antiphon_transceiver.ice_restarts import TooManyRestarts
from antiphon_transceiver.shell.admission import Admission, Draining, Full
from antiphon_transceiver.shell.control_operations import ControlOperations, NoCall, Stale

MAX_BODY = 256 * 1024
"""Bytes of a request: a session object with long instructions fits, an attack does not."""

MAX_WAIT = 60.0
"""Seconds a request may wait for the end of a call."""

RETRY_AFTER = "2"
"""Seconds after which a refused offer is worth another try."""

Handler = Callable[[Request], Awaitable[Response]]
Message = TypeVar("Message")


class BadRequest(AntiphonError):
    """A request that cannot be carried out. The answer has `status` and `code`, and the message of this error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


REFUSALS: tuple[tuple[type[Exception], int, str], ...] = (
    (Draining, 503, "draining"),
    (Full, 503, "full"),
    (BackendError, 422, "backend_refused"),
    (NoCall, 404, "no_call"),
    (Stale, 412, "stale"),
    (TooManyRestarts, 429, "too_many_restarts"),
    (LocalProtocolError, 409, "conflict"),
)
"""The answer to each error of an operation: status and code of the first class that fits. Its message is sent too."""


def control_app(
    admission: Admission, operations: ControlOperations, link: LinkInfo, keys: DerivedKeys, networks: ClusterNetworks
) -> App:
    """Return the ASGI application of one transceiver; `networks` are those of its cluster and all others."""
    api = _ControlApi(admission, operations, link, networks)

    def route(method: str, path: str, handler: Handler) -> Route:
        return Route(path, _explained(handler), methods=[method])

    app = Starlette(
        routes=[
            route("POST", "/calls", api.start),
            route("GET", "/calls", api.list),
            route("GET", "/calls/{call_id}", api.status),
            route("PATCH", "/calls/{call_id}", api.update),
            route("DELETE", "/calls/{call_id}", api.end),
            route("GET", "/link", api.link),
            route("GET", "/load", api.load),
            route("POST", "/drain", api.begin_drain),
            route("DELETE", "/drain", api.cancel_drain),
            route("POST", "/moved", api.claim_calls),
            route("DELETE", "/moved", api.stop_claiming),
        ]
    )
    app.router.redirect_slashes = False
    return require_key(app, keys)


def _explained(handler: Handler) -> Handler:
    """Answer what a handler raises of BadRequest and of REFUSALS."""

    async def explain(request: Request) -> Response:
        try:
            return await handler(request)
        except BadRequest as error:
            return _failure(error.status, error.code, str(error))
        except AntiphonError as error:
            for kind, status, code in REFUSALS:
                if isinstance(error, kind):
                    after = error.retry_after if isinstance(error, TooManyRestarts) else RETRY_AFTER
                    headers = {"Retry-After": str(after)} if status in (429, 503) and after is not None else None
                    return _failure(status, code, str(error) or code, headers)
            raise

    return explain


class _ControlApi:
    """What each request does."""

    def __init__(
        self, admission: Admission, operations: ControlOperations, link: LinkInfo, networks: ClusterNetworks
    ) -> None:
        self._admission = admission
        self._operations = operations
        self._link = link
        self._networks = networks

    async def start(self, request: Request) -> Response:
        offer = await _read(request, CallRequest)
        return _json(201, self._admission.open_call(offer))

    async def list(self, request: Request) -> Response:
        return _json(200, CallList(*map(tuple, self._operations.list_calls())))

    async def status(self, request: Request) -> Response:
        call_id, tenant = _call_of(request)
        wait = min(_read_seconds(request, "wait") or 0.0, MAX_WAIT)
        if wait > 0:
            found = await self._operations.wait_ended(call_id, tenant, wait)
        else:
            found = self._operations.status(call_id, tenant)
        return _no_call() if found is None else _json(200, found)

    async def update(self, request: Request) -> Response:
        change = await _read(request, IceUpdate)
        answer = self._operations.update_ice(*_call_of(request), change)
        return Response(status_code=204) if answer is None else _json(200, answer)

    async def end(self, request: Request) -> Response:
        return Response(status_code=204) if self._operations.end_call(*_call_of(request)) else _no_call()

    async def link(self, request: Request) -> Response:
        return _json(200, self._link)

    async def load(self, request: Request) -> Response:
        return _json(200, self._admission.load)

    async def begin_drain(self, request: Request) -> Response:
        self._admission.drain.begin(_read_seconds(request, "seconds"))
        return _json(200, self._admission.load)

    async def cancel_drain(self, request: Request) -> Response:
        if not self._admission.drain.cancel():
            return _failure(409, "leaving", "the process is about to end")
        return _json(200, self._admission.load)

    async def claim_calls(self, request: Request) -> Response:
        self._operations.claim_calls(_owner(await _read(request, PreviousOwner), self._networks))
        return Response(status_code=204)

    async def stop_claiming(self, request: Request) -> Response:
        try:
            previous = msgspec.convert(dict(request.query_params), PreviousOwner, strict=False)
        except msgspec.ValidationError as error:
            raise BadRequest(400, "bad_request", str(error)) from None
        if not self._operations.stop_claiming(_owner(previous, self._networks)):
            return _failure(404, "not_moved", "this transceiver does not answer for that one")
        return Response(status_code=204)


def _call_of(request: Request) -> tuple[str, str]:
    """Return the call that a request names, and the tenant it is asked for."""
    return request.path_params["call_id"], request.query_params.get("tenant", "")


async def _read(request: Request, kind: type[Message]) -> Message:
    """Return the message in the body of a request; raise BadRequest when it is too long or another."""
    body = bytearray()
    try:
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > MAX_BODY:
                    raise BadRequest(413, "too_large", f"a request has at most {MAX_BODY} bytes")
    except ClientDisconnect:
        raise BadRequest(400, "disconnected", "the request was not complete") from None
    try:
        check_json(body)
        return decode(bytes(body), kind)
    except LimitError as error:
        raise BadRequest(422, "session_too_large", f"the request has {error}") from None
    except DecodeError as error:
        raise BadRequest(400, "bad_request", str(error)) from None


def _owner(previous: PreviousOwner, networks: ClusterNetworks) -> Owner:
    """Return an address as route tokens have it; raise BadRequest for one that no token can name."""
    try:
        owner = Owner(previous.cluster, networks.host_of(previous.cluster, previous.host), previous.port)
    except ValueError as error:
        raise BadRequest(400, "bad_request", str(error)) from None
    if networks.resolve(owner) is None:
        raise BadRequest(400, "bad_request", f"port {previous.port} is none of cluster {previous.cluster}'s")
    return owner


def _read_seconds(request: Request, name: str) -> float | None:
    """Return a query parameter, None where there is none; raise BadRequest when it is no time."""
    text = request.query_params.get(name)
    try:
        seconds = None if text is None else float(text)
    except ValueError:
        seconds = -1.0
    if seconds is not None and not 0 <= seconds < inf:
        raise BadRequest(400, "bad_request", f"{name} is a number of seconds")
    return seconds


def _json(status: int, value: Any) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _no_call() -> Response:
    return _failure(404, "no_call", "there is no such call")


def _failure(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(Failure(code, message)), status, headers, media_type="application/json")
