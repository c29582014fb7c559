"""The control API: JSON over HTTP, for signaling servers and relays. `antiphon_common.control` has its vocabulary."""

import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from antiphon_common.control import CallRequest, Failure, IceUpdate, LinkInfo, Origin, is_authorized
from antiphon_common.errors import AntiphonError, LocalProtocolError
from antiphon_common.keys import DerivedKeys
from antiphon_common.link import Owner
from antiphon_common.routing import ClusterNetworks, RouteToken
from antiphon_transceiver.backends import BackendError
from antiphon_transceiver.server import Draining, Full, NoCall, Stale, TransceiverServer

MAX_BODY = 256 * 1024
"""Bytes of a request: a session object with long instructions fits, an attack does not."""

MAX_WAIT = 60.0
"""Seconds a request may wait for the end of a call."""

RETRY_AFTER = "2"
"""Seconds after which a refused offer is worth another try."""

Handler = Callable[[Request], Awaitable[Response]]
Message = TypeVar("Message")


class BadRequest(AntiphonError):
    """A request whose body cannot be taken; `status` and `code` are what the answer says."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def control_app(server: TransceiverServer, link: LinkInfo, keys: DerivedKeys, networks: ClusterNetworks) -> Starlette:
    """Return the ASGI application of one transceiver; `networks` are those of its cluster and all others."""

    async def start(request: Request) -> Response:
        offer = await _read(request, CallRequest)
        try:
            return _json(201, server.start_call(offer))
        except Draining as error:
            return _failure(503, "draining", str(error), {"Retry-After": RETRY_AFTER})
        except Full as error:
            return _failure(503, "full", str(error), {"Retry-After": RETRY_AFTER})
        except BackendError as error:
            return _failure(422, "backend_refused", str(error))
        except LocalProtocolError as error:
            return _failure(409, "exists", str(error))

    async def status(request: Request) -> Response:
        call_id, tenant = request.path_params["call_id"], request.query_params.get("tenant", "")
        wait = min(_read_seconds(request, "wait") or 0.0, MAX_WAIT)
        if wait > 0:
            found = await server.wait_ended(call_id, tenant, wait)
        else:
            found = server.switchboard.status(call_id, tenant)
        return _no_call() if found is None else _json(200, found)

    async def update(request: Request) -> Response:
        change = await _read(request, IceUpdate)
        try:
            answer = server.update_ice(request.path_params["call_id"], request.query_params.get("tenant", ""), change)
        except NoCall:
            return _no_call()
        except Stale:
            return _failure(412, "stale", "the call has newer ICE credentials than this update goes by")
        return Response(status_code=204) if answer is None else _json(200, answer)

    async def end(request: Request) -> Response:
        ended = server.end_call(request.path_params["call_id"], request.query_params.get("tenant", ""))
        return Response(status_code=204) if ended else _no_call()

    async def link_info(request: Request) -> Response:
        return _json(200, link)

    async def load(request: Request) -> Response:
        return _json(200, server.load())

    async def begin_drain(request: Request) -> Response:
        server.drain.begin(_read_seconds(request, "seconds"))
        return _json(200, server.load())

    async def cancel_drain(request: Request) -> Response:
        if not server.drain.cancel():
            return _failure(409, "leaving", "the process is about to end")
        return _json(200, server.load())

    async def take_over(request: Request) -> Response:
        try:
            server.take_over(_owner(await _read(request, Origin), networks))
        except LocalProtocolError as error:
            return _failure(409, "not_moved", str(error))
        return Response(status_code=204)

    async def give_up(request: Request) -> Response:
        try:
            origin = msgspec.convert(dict(request.query_params), Origin, strict=False)
        except msgspec.ValidationError as error:
            raise BadRequest(400, "bad_request", str(error)) from None
        if not server.switchboard.relays.give_up(_owner(origin, networks)):
            return _failure(404, "not_moved", "this transceiver does not answer for that one")
        return Response(status_code=204)

    def guarded(handler: Handler) -> Handler:
        async def guard(request: Request) -> Response:
            if not is_authorized(keys, request.headers.get("authorization", ""), time.time()):
                return _failure(401, "unauthorized", "the Bearer token is not a control key of this secret file")
            try:
                return await handler(request)
            except BadRequest as error:
                return _failure(error.status, error.code, str(error))

        return guard

    return Starlette(
        routes=[
            Route("/calls", guarded(start), methods=["POST"]),
            Route("/calls/{call_id}", guarded(status), methods=["GET"]),
            Route("/calls/{call_id}", guarded(update), methods=["PATCH"]),
            Route("/calls/{call_id}", guarded(end), methods=["DELETE"]),
            Route("/link", guarded(link_info), methods=["GET"]),
            Route("/load", guarded(load), methods=["GET"]),
            Route("/drain", guarded(begin_drain), methods=["POST"]),
            Route("/drain", guarded(cancel_drain), methods=["DELETE"]),
            Route("/moved", guarded(take_over), methods=["POST"]),
            Route("/moved", guarded(give_up), methods=["DELETE"]),
        ]
    )


async def _read(request: Request, kind: type[Message]) -> Message:
    """Return the message in the body of a request; raise BadRequest when it is too long or another."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise BadRequest(413, "too_large", f"a request has at most {MAX_BODY} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise BadRequest(400, "bad_request", str(error)) from None


def _owner(origin: Origin, networks: ClusterNetworks) -> Owner:
    """Return an address as route tokens have it; raise BadRequest for one that no token can name."""
    try:
        owner = Owner(origin.cluster, networks.host_of(origin.cluster, origin.host), origin.port)
    except ValueError as error:
        raise BadRequest(400, "bad_request", str(error)) from None
    if networks.resolve(RouteToken(*owner, nonce=0)) is None:
        raise BadRequest(400, "bad_request", f"port {origin.port} is none of cluster {origin.cluster}'s")
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
