"""Sets up and controls calls at transceivers. The HTTP and the WebSocket API both use it."""

import base64
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec
import trio
from prometheus_client import CollectorRegistry, Counter

from antiphon_common.control import ANY_GENERATION, CallStatus, IceUpdate
from antiphon_common.errors import DecodeError
from antiphon_common.json_objects import LimitError, check_json
from antiphon_common.shell.supervise import Drain
from antiphon_signaling.authentication import Caller
from antiphon_signaling.limits import Limits, Setup
from antiphon_signaling.refusals import RefusedError, busy, no_such_call
from antiphon_signaling.sdp import OfferError, read_fragment, read_offer, write_answer, write_fragment
from antiphon_signaling.shell.placement import Transceivers

CALL_ID_BYTES = 16
"""128 random bits cannot be guessed."""

_CALL_ID = re.compile(r"rtc_[A-Za-z0-9_-]{22}")

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Answered(NamedTuple):
    """An answered call, from `Calls.start`. `sdp` is the answer, `transceiver` the control URL of the call's owner."""

    call_id: str
    sdp: bytes
    transceiver: str
    generation: str
    """Our ufrag: the ETag of the ICE generation (RFC 9725 §4.3)."""


class Restarted(NamedTuple):
    """A restarted ICE generation, from `Calls.restart` and `update_ice`. `sdp` answers the client."""

    sdp: bytes
    generation: str


class CallMetrics:
    """Counts call set-ups, as `antiphon_signaling_calls_*`. `Calls.attempt` increments the counters."""

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = "antiphon_signaling_calls"
        self.attempted = Counter(f"{prefix}_attempted", "offers that came in", registry=registry)
        self.answered = Counter(f"{prefix}_answered", "offers that were answered", registry=registry)
        self.refused = Counter(f"{prefix}_refused", "offers that were refused", ["code"], registry=registry)


class Calls:
    """Sets up and controls the calls of all tenants. `attempt` and `admit` surround `start`.

    Transceivers hold the calls and find them by id; here they are only counted. `addresses` are the advertised media
    addresses, the best first. `random(n)` returns n random bytes.
    """

    def __init__(
        self,
        transceivers: Transceivers,
        addresses: Sequence[tuple[str, int]],
        random: Callable[[int], bytes],
        metrics: CallMetrics,
        drain: Drain,
        limits: Limits,
    ) -> None:
        self._transceivers = transceivers
        self._addresses = tuple(addresses)
        self._random = random
        self._metrics = metrics
        self._drain = drain
        self._limits = limits

    @contextmanager
    def attempt(self, peer: str) -> Iterator[None]:
        """Count the set-up that the context contains. If it is refused, log the reason."""
        self._metrics.attempted.inc()
        try:
            yield
        except RefusedError as error:
            self._metrics.refused.labels(error.code).inc()
            logger.info("call refused", extra={"peer": peer, "code": error.code, "reason": error.message})
            raise
        self._metrics.answered.inc()

    @contextmanager
    def admit(self, caller: Caller) -> Iterator[Setup]:
        """Charge the set-up that the context contains to the limits of its caller.

        Raises:
            RefusedError: the caller exceeds a limit (429).
        """
        setup = self._limits.begin(caller.account, caller.address, trio.current_time())
        try:
            yield setup
        finally:
            if not setup.call_id:
                self._limits.end(setup, trio.current_time())

    async def start(self, setup: Setup, tenant: str, offer: bytes, session: dict[str, Any]) -> Answered:
        """Set up an admitted call, and return its answer.

        Raises:
            RefusedError: the offer cannot be answered (400, 422), or no transceiver accepts the call (503).
        """
        if self._drain.begun:
            raise busy("draining", "this server is about to stop: try again, and another one answers")
        negotiated = _read(read_offer, offer)
        call_id = "rtc_" + base64.urlsafe_b64encode(self._random(CALL_ID_BYTES)).decode().rstrip("=")
        url, accepted = await self._transceivers.place(negotiated.call_request(call_id, tenant, session))
        self._limits.place(setup, call_id, url, trio.current_time())
        session_id = int.from_bytes(self._random(8), "big") >> 1
        answer = write_answer(negotiated, accepted, self._addresses, session_id)
        logger.info("call answered", extra={"call": call_id, "tenant": tenant, "transceiver": url})
        return Answered(call_id, answer.encode(), url, accepted.ice.ufrag)

    async def update_ice(self, caller: Caller, call_id: str, body: bytes, generation: str) -> Restarted | None:
        """Take an SDP fragment (RFC 8840). Return None if it trickles candidates, which a lite agent ignores.

        With `generation` "*" it restarts ICE; with the generation of the call it trickles candidates.

        Raises:
            RefusedError: the fragment is malformed (400, 422), the call unknown (404), the generation old (412), or the
            caller
                exceeds a limit (429).
        """
        _check(call_id)
        self._limits.restart(caller.account, caller.address, trio.current_time())
        fragment = _read(read_fragment, body)
        ice = fragment.ice if generation == ANY_GENERATION else None
        accepted = await self._transceivers.update_ice(call_id, caller.tenant, IceUpdate(generation, ice))
        if accepted is None:
            return None
        return Restarted(write_fragment(fragment, accepted.ice, self._addresses), accepted.ice.ufrag)

    async def restart(self, caller: Caller, call_id: str, offer: bytes) -> Restarted:
        """Restart ICE by a whole offer for a running call.

        Raises:
            RefusedError: the offer cannot be answered (400, 422), the call is unknown (404), the caller exceeds a limit
            (429),
                or the transceiver fails (503).
        """
        self._limits.restart(caller.account, caller.address, trio.current_time())
        negotiated = _read(partial(read_offer, held=True), offer)
        update = IceUpdate(ANY_GENERATION, negotiated.ice)
        accepted = await self._transceivers.update_ice(call_id, caller.tenant, update)
        if accepted is None:
            raise busy("no_transceiver", "the transceiver of this call sent an invalid answer")
        session_id = int.from_bytes(self._random(8), "big") >> 1
        return Restarted(write_answer(negotiated, accepted, self._addresses, session_id).encode(), accepted.ice.ufrag)

    async def end(self, caller: Caller, call_id: str) -> None:
        """End a call.

        Raises:
            RefusedError: the tenant has no such call (404), or the caller exceeds a limit (429).
        """
        self._count_question(caller, call_id)
        await self._transceivers.end(call_id, caller.tenant)
        self._limits.end_call(call_id, trio.current_time())

    async def status(self, caller: Caller, call_id: str) -> CallStatus:
        """Return the statistics of a call.

        Raises:
            RefusedError: the tenant has no such call (404), or the caller exceeds a limit (429).
        """
        self._count_question(caller, call_id)
        return await self._transceivers.status(call_id, caller.tenant)

    def _count_question(self, caller: Caller, call_id: str) -> None:
        _check(call_id)
        self._limits.ask(caller.account, caller.address, trio.current_time())

    async def wait_ended(self, tenant: str, call: Answered) -> str:
        """Wait until a call has ended, and return the reason."""
        reason = await self._transceivers.wait_ended(call.transceiver, call.call_id, tenant)
        self._limits.end_call(call.call_id, trio.current_time())
        return reason


def read_session(text: str | bytes | None, model: str | None = None) -> dict[str, Any]:
    """Read the session object of a set-up. `model` is used if the object has none.

    Raises:
        RefusedError: the text is no JSON object, too large, or its model is no string (400).
    """
    try:
        check_json(text.encode() if isinstance(text, str) else text or b"")
        session = msgspec.json.decode(text, type=dict[str, Any]) if text else {}
    except LimitError as error:
        raise RefusedError(400, "invalid_session", f"session has {error}", param="session") from None
    except (DecodeError, msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise RefusedError(400, "invalid_session", f"session is not a JSON object: {error}", param="session") from None
    return check_session(session, model)


def check_session(session: dict[str, Any], model: str | None = None) -> dict[str, Any]:
    """Return a session object with its `model`.

    Raises:
        RefusedError: the model is no string (400).
    """
    session = session if "model" in session or not model else {**session, "model": model}
    if not isinstance(session.get("model", ""), str):
        raise RefusedError(400, "invalid_session", "model is a string", param="session.model")
    return session


def _read(reader: Callable[[bytes], T], sdp: bytes) -> T:
    try:
        return reader(sdp)
    except DecodeError as error:
        raise RefusedError(400, "invalid_sdp", str(error), param="sdp") from None
    except OfferError as error:
        raise RefusedError(422, error.code, str(error), param="sdp") from None


def _check(call_id: str) -> None:
    """Refuse malformed call ids, so that they reach no transceiver and no URL."""
    if not _CALL_ID.fullmatch(call_id):
        raise no_such_call()
