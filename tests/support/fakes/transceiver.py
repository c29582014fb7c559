"""A fake transceiver for tests of signaling: a control API without media."""

from typing import Any

import msgspec
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from antiphon_common.control import (
    ANY_GENERATION,
    CallAccepted,
    CallList,
    CallRequest,
    CallStatus,
    Failure,
    Fingerprint,
    IceParameters,
    IceUpdate,
    LinkInfo,
    Load,
)
from antiphon_common.keys import KeyRing
from antiphon_common.shell.admin import serve_http
from antiphon_common.shell.control_server import require_key

ACCEPTED = CallAccepted(
    ice=IceParameters("Aabcdefghijklmnopqrstuv", "p" * 24),
    setup="active",
    fingerprint=Fingerprint("sha-256", ":".join(["CD"] * 32)),
    ssrc=0x12345678,
    cname="call",
)


class FakeTransceiver:
    """Accepts calls up to `capacity` and records requests. With `failure` it refuses every call with 422."""

    def __init__(self, keys: KeyRing, *, capacity: int = 100, failure: Failure | None = None) -> None:
        self.url = ""
        self.asked = 0
        """How often a call was asked for, also in vain."""
        self.calls: dict[str, CallRequest] = {}
        self.restarted: dict[str, CallAccepted] = {}
        self.connected: set[str] = set()
        """Ids of the calls that have been connected."""
        self.failure = failure
        self.draining = False
        self.full = False
        """Refuses calls although it reports room, as one that others have filled since its last report."""
        self.refuses_restarts = False
        """Answers ICE updates with 429."""
        self._capacity = capacity
        self._keys = keys
        self._ended: dict[str, trio.Event] = {}

    def finish(self, call_id: str) -> None:
        """End a call as if its caller had left."""
        self._ended[call_id].set()

    def has_ended(self, call_id: str) -> bool:
        return self._ended[call_id].is_set()

    async def run(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve on a free port of loopback until cancelled. The started value is the URL."""
        app = Starlette(
            routes=[
                Route("/calls", self._start, methods=["POST"]),
                Route("/calls", self._list, methods=["GET"]),
                Route("/calls/{call_id}", self._status, methods=["GET"]),
                Route("/calls/{call_id}", self._update, methods=["PATCH"]),
                Route("/calls/{call_id}", self._end, methods=["DELETE"]),
                Route("/link", self._link, methods=["GET"]),
                Route("/load", self._load, methods=["GET"]),
            ]
        )
        async with trio.open_nursery() as nursery:
            address = await nursery.start(serve_http, require_key(app, self._keys.control), "127.0.0.1", 0)
            self.url = f"http://{address}"
            task_status.started(self.url)

    async def _start(self, request: Request) -> Response:
        self.asked += 1
        if self.failure is not None:
            return _json(422, self.failure)
        if self.draining:
            return _json(503, Failure("draining", "about to stop"), {"Retry-After": "7"})
        if self.full or len(self.calls) >= self._capacity:
            return _json(503, Failure("full", "no slot"), {"Retry-After": "7"})
        call = msgspec.json.decode(await request.body(), type=CallRequest)
        self.calls[call.call_id] = call
        self._ended[call.call_id] = trio.Event()
        return _json(201, ACCEPTED)

    async def _list(self, request: Request) -> Response:
        running = [call_id for call_id, ended in self._ended.items() if not ended.is_set()]
        connecting = tuple(call_id for call_id in running if call_id not in self.connected)
        return _json(200, CallList(connecting, tuple(set(running) - set(connecting))))

    async def _status(self, request: Request) -> Response:
        call_id = self._known(request)
        if call_id is None:
            return _json(404, Failure("no_call", "there is no such call"))
        if wait := float(request.query_params.get("wait", "0")):
            with trio.move_on_after(wait):
                await self._ended[call_id].wait()
        ended = self._ended[call_id].is_set()
        state, reason = ("ended", "hangup") if ended else ("connected", None)
        return _json(200, CallStatus(call_id, state, reason, {"lost": 0}))

    async def _update(self, request: Request) -> Response:
        call_id = self._known(request)
        if call_id is None:
            return _json(404, Failure("no_call", "there is no such call"))
        if self.refuses_restarts:
            return _json(429, Failure("too_many_restarts", "try again later"), {"Retry-After": "6"})
        update = msgspec.json.decode(await request.body(), type=IceUpdate)
        current = self.restarted.get(call_id, ACCEPTED)
        if update.generation not in (ANY_GENERATION, current.ice.ufrag):
            return _json(412, Failure("stale", "newer credentials"))
        if update.ice is None:
            return Response(status_code=204)
        renewed = IceParameters(f"{current.ice.ufrag}+", "q" * 24)
        self.restarted[call_id] = msgspec.structs.replace(ACCEPTED, ice=renewed)
        self.calls[call_id] = msgspec.structs.replace(self.calls[call_id], ice=update.ice)
        return _json(200, self.restarted[call_id])

    async def _end(self, request: Request) -> Response:
        call_id = self._known(request)
        if call_id is None:
            return _json(404, Failure("no_call", "there is no such call"))
        self._ended[call_id].set()
        return Response(status_code=204)

    async def _link(self, request: Request) -> Response:
        link = LinkInfo(0, (self.url.removeprefix("http://"),))  # its own, like the URL
        return _json(200, link)

    async def _load(self, request: Request) -> Response:
        return _json(200, Load(len(self.calls), self._capacity, self.draining))

    def _known(self, request: Request) -> str | None:
        call = self.calls.get(request.path_params["call_id"])
        return call.call_id if call is not None and call.tenant == request.query_params.get("tenant") else None


def _json(status: int, value: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")
