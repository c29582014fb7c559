"""The HTTP API: calls as in the Realtime API, and the talk page. A Starlette application."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
import trio
from python_multipart.multipart import parse_options_header
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from antiphon_common.shell.http1 import App
from antiphon_signaling.authentication import Authenticator, Caller, joined
from antiphon_signaling.refusals import RefusedError
from antiphon_signaling.sdp import FRAGMENT_TYPE
from antiphon_signaling.shell.calls import Calls, read_session
from antiphon_signaling.shell.cors import allow_pages
from antiphon_signaling.shell.page import page_routes

CALLS_PATH = "/v1/realtime/calls"
MAX_BODY = 192 * 1024
"""Bytes of a request: an offer, and a session object with long instructions."""
MAX_DRAINED = 2 * 1024 * 1024
"""Bytes of a too long body that are read and dropped, so that its sender receives the refusal."""
BODY_SECONDS = 10.0
"""Seconds that receiving a body may take."""
MAX_PARTS = 8
MAX_FORM_TYPE = 512
"""Bytes of the Content-Type of a form; a boundary has at most 70 (RFC 2046 §5.1.1)."""
FORM_CHARSETS = frozenset({b"utf-8", b"utf8", b"us-ascii"})
"""Accepted charsets of a form, which is in UTF-8 (RFC 7578 §5.1). The parser would use any codec of Python. Punycode
takes time in the square of a part's length: 2.9 s for 190 KiB."""


def make_app(calls: Calls, authenticator: Authenticator) -> App:
    """Return the ASGI application of the HTTP API and the talk page."""
    api = _CallsApi(calls, authenticator)
    app = Starlette(
        routes=[
            Route(CALLS_PATH, _options, methods=["OPTIONS"]),
            Route(CALLS_PATH, api.start, methods=["POST"]),
            Route(CALLS_PATH + "/{call_id}", api.update, methods=["PATCH"]),
            Route(CALLS_PATH + "/{call_id}", api.end, methods=["DELETE"]),
            Route(CALLS_PATH + "/{call_id}/hangup", api.end, methods=["POST"]),
            Route(CALLS_PATH + "/{call_id}/stats", api.stats, methods=["GET"]),
            *page_routes(),
        ],
        exception_handlers={RefusedError: _explain, HTTPException: _explain_http, Exception: _explain_bug},
    )
    app.router.redirect_slashes = False  # behind a proxy that ends TLS it would redirect to http
    return allow_pages(app)


class _CallsApi:
    """The handlers of requests about calls."""

    def __init__(self, calls: Calls, authenticator: Authenticator) -> None:
        self._calls = calls
        self._authenticator = authenticator

    async def start(self, request: Request) -> Response:
        with self._calls.attempt(_peer(request)):
            caller = self._caller_of(request)
            with self._calls.admit(caller) as setup:
                offer, text = await _read_offer(request)
                session = read_session(text, request.query_params.get("model"))
                answered = await self._calls.start(setup, caller.tenant, offer, session)
        headers = {"Location": f"{CALLS_PATH}/{answered.call_id}", "ETag": _etag(answered.generation)}
        return Response(answered.sdp, 201, headers, media_type="application/sdp")

    async def update(self, request: Request) -> Response:
        caller, call_id = self._caller_of(request), request.path_params["call_id"]
        _require_type(request, FRAGMENT_TYPE)
        generation = _read_if_match(request)
        restarted = await self._calls.update_ice(caller, call_id, await _read_body(request), generation)
        if restarted is None:
            return Response(status_code=204)
        return Response(restarted.sdp, 200, {"ETag": _etag(restarted.generation)}, media_type=FRAGMENT_TYPE)

    async def end(self, request: Request) -> Response:
        await self._calls.end(self._caller_of(request), request.path_params["call_id"])
        return Response(status_code=200)

    async def stats(self, request: Request) -> Response:
        status = await self._calls.status(self._caller_of(request), request.path_params["call_id"])
        return Response(msgspec.json.encode(status), media_type="application/json")

    def _caller_of(self, request: Request) -> Caller:
        headers = joined(request.headers.items())
        if request.scope["http_version"] == "1.0":
            headers.setdefault("via", "1.0")  # a proxy uses this version, and may add no header of its own
        return self._authenticator.identify(headers, _peer(request))


def _peer(request: Request) -> str:
    return request.client.host if request.client else ""


def _etag(generation: str) -> str:
    return f'"{generation}"'


def _read_if_match(request: Request) -> str:
    """Return the ICE generation of If-Match (RFC 9725 §4.3.1)."""
    given = request.headers.get("if-match", "").strip()
    if not given:
        raise RefusedError(428, "no_if_match", 'send If-Match: the ETag of the call, or "*" to restart ICE')
    return given.strip('"')


def _require_type(request: Request, wanted: str) -> None:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != wanted:
        raise RefusedError(415, "unsupported_media_type", f"send it as {wanted}")


async def _options(request: Request) -> Response:
    """Answer OPTIONS requests of WHIP clients (RFC 9725), which are no CORS preflights."""
    headers = {
        "Accept-Post": "application/sdp, multipart/form-data",
        "Accept-Patch": FRAGMENT_TYPE,
        "Allow": "POST, PATCH, DELETE, OPTIONS",
    }
    return Response(status_code=200, headers=headers)


async def _read_offer(request: Request) -> tuple[bytes, str | bytes | None]:
    """Return the offer and the text of the session object."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/sdp", "multipart/form-data"):
        raise RefusedError(
            415, "unsupported_media_type", "send the offer as application/sdp, or as part sdp of multipart/form-data"
        )
    body = await _read_body(request)
    if kind == "application/sdp":
        return body, None
    parts = await _read_parts(request, body)
    if "sdp" not in parts:
        raise RefusedError(400, "missing_sdp", "the form has no part sdp", param="sdp")
    return parts["sdp"], parts.get("session")


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    size = 0
    try:
        with trio.fail_after(BODY_SECONDS):
            async with aclosing(request.stream()) as chunks:
                async for chunk in chunks:
                    size += len(chunk)
                    if size <= MAX_BODY:
                        body += chunk
                    elif size > MAX_DRAINED:
                        break
    except trio.TooSlowError:
        raise RefusedError(408, "too_slow", f"the request was not complete within {BODY_SECONDS:g} seconds") from None
    except ClientDisconnect:
        raise RefusedError(400, "disconnected", "the client disconnected before its request was complete") from None
    if size > MAX_BODY:
        raise RefusedError(413, "too_large", f"a request has at most {MAX_BODY} bytes")
    return bytes(body)


async def _read_parts(request: Request, body: bytes) -> dict[str, bytes]:
    _check_form_type(request.headers["content-type"])

    async def replay() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        async with aclosing(replay()) as stream:
            parser = MultiPartParser(
                request.headers, stream, max_files=MAX_PARTS, max_fields=MAX_PARTS, max_part_size=MAX_BODY
            )
            form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        raise RefusedError(400, "invalid_form", f"the form cannot be read: {error}") from None
    try:
        return {name: await _read_part(value) for name, value in form.items()}
    finally:
        await form.close()


def _check_form_type(given: str) -> None:
    if len(given) > MAX_FORM_TYPE:
        raise RefusedError(400, "invalid_form", f"the Content-Type of a form has at most {MAX_FORM_TYPE} bytes")
    if parse_options_header(given)[1].get(b"charset", b"utf-8").lower() not in FORM_CHARSETS:
        raise RefusedError(400, "invalid_form", "a form is in UTF-8, and needs no charset")


async def _read_part(value: UploadFile | str) -> bytes:
    return value.encode() if isinstance(value, str) else await value.read()


def _json(status: int, body: bytes, headers: dict[str, str]) -> Response:
    return Response(body, status, headers, media_type="application/json")


async def _explain(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return _json(error.status, error.body(), error.headers)


async def _explain_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    names = {404: "not_found", 405: "method_not_allowed"}
    refusal = RefusedError(error.status_code, names.get(error.status_code, "bad_request"), error.detail)
    return _json(error.status_code, refusal.body(), dict(error.headers or {}))


async def _explain_bug(request: Request, error: Exception) -> Response:
    return _json(
        500, RefusedError(500, "internal_error", "something went wrong here; the log has the details").body(), {}
    )
