"""Places calls at transceivers, and finds the transceiver of a call, over their control API."""

import logging
from typing import TypeVar

import httpx
import msgspec
import trio

from antiphon_common.control import CallAccepted, CallRequest, CallStatus, Failure, IceUpdate, decode
from antiphon_common.errors import DecodeError
from antiphon_common.keys import DerivedKeys
from antiphon_common.shell.control_client import ControlAuth
from antiphon_signaling.fleet import Fleet
from antiphon_signaling.refusals import RefusedError, busy, no_such_call

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 10.0
KEEP_IDLE_SECONDS = 3.0
"""Idle connections are closed before the transceiver's limit for a request head closes them."""
WAIT_SECONDS = 30.0
"""How long one request that waits for the end of a call stays open."""
MAX_FAILED_WAITS = 5
"""Unanswered requests in a row after which a call's transceiver counts as lost."""
PAUSE_SECONDS = 2.0

REFUSED_BY_OWNER = frozenset({409, 412, 422, 429})
"""Status codes that only the transceiver of a call sends, so that no other answer is awaited."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


def open_client(keys: DerivedKeys) -> httpx.AsyncClient:
    """Return the HTTP client for all transceivers.

    Each request of a caller causes few requests here. So the callers' connections bound the number of ours.
    """
    return httpx.AsyncClient(
        auth=ControlAuth(keys),
        timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS, pool=None),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=KEEP_IDLE_SECONDS),
        trust_env=False,
    )


class Transceivers:
    """The control API of all transceivers of a fleet. `place` starts a call; the other methods take its id."""

    def __init__(self, fleet: Fleet, client: httpx.AsyncClient) -> None:
        self._fleet = fleet
        self._client = client

    async def place(self, request: CallRequest) -> tuple[str, CallAccepted]:
        """Start a call at a transceiver with free capacity. Return its URL and its answer.

        Where one is full, draining, unreachable or broken, the next one is tried.

        Raises:
            RefusedError: a transceiver refuses the call itself (413, 422), or none accepts it (503).
        """
        full: httpx.Response | None = None
        for url in self._fleet.order():
            with self._fleet.asking(url):
                response = await self._send("POST", f"{url}/calls", content=msgspec.json.encode(request))
            if response is None:
                continue
            if response.status_code == 201 and (accepted := _decode(response, CallAccepted)):
                self._fleet.taken(url)
                return url, accepted
            if response.status_code in (413, 422):
                failure = _decode(response, Failure) or Failure("refused", "the transceiver refused the call")
                raise RefusedError(response.status_code, failure.code, failure.message, param="session")
            if response.status_code == 503:
                failure = _decode(response, Failure) or Failure("full", "")
                self._fleet.refused(url, draining=failure.code == "draining")
                full = response
            else:
                logger.error("transceiver failed", extra={"transceiver": url, "status": response.status_code})
        if full is not None:
            raise busy("full", "all lines are busy: try again in a moment", full.headers.get("Retry-After"))
        raise busy("no_transceiver", "no transceiver can be reached: try again in a moment")

    async def end(self, call_id: str, tenant: str) -> None:
        """End a call, whichever transceiver has it.

        Raises:
            RefusedError: with 404 or 503.
        """
        await self._find("DELETE", call_id, tenant)

    async def update_ice(self, call_id: str, tenant: str, update: IceUpdate) -> CallAccepted | None:
        """Restart the ICE of a call, and return its new answer. Return None if candidates were trickled.

        Raises:
            RefusedError: with 404, 409, 412, 429 or 503.
        """
        response = await self._find("PATCH", call_id, tenant, content=msgspec.json.encode(update))
        if response.status_code == 412:
            raise RefusedError(412, "stale", "the call has restarted ICE since: its ETag is another one")
        if not response.is_success:
            failure = _decode(response, Failure) or Failure("refused", "the transceiver refused the restart")
            again = response.headers.get("Retry-After")
            raise RefusedError(
                response.status_code, failure.code, failure.message, headers={"Retry-After": again} if again else None
            )
        return None if response.status_code == 204 else _decode(response, CallAccepted)

    async def status(self, call_id: str, tenant: str) -> CallStatus:
        """Return the statistics of a call, whichever transceiver has it.

        Raises:
            RefusedError: with 404 or 503.
        """
        status = _decode(await self._find("GET", call_id, tenant), CallStatus)
        if status is None:
            raise busy("no_transceiver", "the transceiver of this call sent an invalid answer")
        return status

    async def wait_ended(self, url: str, call_id: str, tenant: str) -> str:
        """Wait until a call at the transceiver `url` has ended, and return the reason."""
        failed = 0
        params = {"tenant": tenant, "wait": f"{WAIT_SECONDS:g}"}
        timeout = httpx.Timeout(ANSWER_SECONDS + WAIT_SECONDS, connect=CONNECT_SECONDS, pool=None)
        while failed < MAX_FAILED_WAITS:
            response = await self._send("GET", f"{url}/calls/{call_id}", params=params, timeout=timeout)
            if response is not None and response.status_code == 404:
                return "gone"
            status = None if response is None else _decode(response, CallStatus)
            if status is None:
                failed += 1
                await trio.sleep(PAUSE_SECONDS)
            elif status.reason is not None:
                return status.reason
            else:
                failed = 0
        return "transceiver lost"

    async def _find(self, method: str, call_id: str, tenant: str, content: bytes | None = None) -> httpx.Response:
        """Ask all transceivers at once, and return the answer of the one that has the call."""
        found: list[httpx.Response] = []
        silent: list[str] = []

        async def ask(url: str) -> None:
            response = await self._send(method, f"{url}/calls/{call_id}", params={"tenant": tenant}, content=content)
            if response is not None and (response.is_success or response.status_code in REFUSED_BY_OWNER):
                found.append(response)
                nursery.cancel_scope.cancel()
            elif response is None or response.status_code != 404:
                silent.append(url)

        async with trio.open_nursery() as nursery:
            for url in self._fleet.urls:
                nursery.start_soon(ask, url)
        if found:
            return found[0]
        if silent:
            raise busy("no_transceiver", "a transceiver that may hold this call cannot be reached")
        raise no_such_call()

    async def _send(self, method: str, url: str, **arguments: object) -> httpx.Response | None:
        try:
            return await self._client.request(method, url, **arguments)  # type: ignore[arg-type]
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            logger.warning("transceiver unreachable", extra={"url": url, "reason": reason})
            return None


def _decode(response: httpx.Response, kind: type[T]) -> T | None:
    try:
        return decode(response.content, kind)
    except DecodeError as error:
        extra = {"url": str(response.url), "status": response.status_code, "reason": str(error)}
        logger.warning("transceiver sent an invalid answer", extra=extra)
        return None
