"""Admission of calls: opens those that this process has room for, and stops doing so when it drains."""

import logging
from collections.abc import Sequence

import trio

from antiphon_common.control import CallAccepted, CallRequest, Load
from antiphon_common.errors import AntiphonError
from antiphon_common.shell.supervise import Drain
from antiphon_transceiver.backends import BackendError, NoCapacity
from antiphon_transceiver.call_router import CallRouter
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.shell.backend_pool import BackendPool
from antiphon_transceiver.shell.call_log import CallLog
from antiphon_transceiver.shell.packet_pump import PacketPump

log = logging.getLogger(__name__)

CLOSE_SECONDS = 0.5
"""Time for the last messages to callers to arrive, with one retransmission, and for answers to signaling."""

DRAINED_CODE = "drained"
DRAINED_MESSAGE = "this server stops: call again"


class Full(AntiphonError):
    """No capacity is left here; the offer can be tried elsewhere or later."""


class Draining(AntiphonError):
    """The transceiver takes no new calls; the offer can be tried elsewhere."""


class Admission:
    """Decides whether a call begins here. `open_call` begins one; `wait_drained` returns when the process may end.

    `backends` are the names of the pool; the first takes the calls whose session names no model.
    """

    def __init__(
        self,
        router: CallRouter,
        pump: PacketPump,
        pool: BackendPool,
        call_log: CallLog,
        drain: Drain,
        *,
        backends: Sequence[str],
        capacity: int,
    ) -> None:
        self.drain = drain
        self._router = router
        self._pump = pump
        self._pool = pool
        self._log = call_log
        self._backends = backends
        self._capacity = capacity

    def is_ready(self) -> bool:
        """Return whether an offer would be accepted and find a connected backend now."""
        return not self.drain.begun and any(self._pool.connected(name) for name in self._backends)

    @property
    def load(self) -> Load:
        """How many calls there are, how many there may be, and whether new ones are refused."""
        return Load(len(self._router), self._capacity, self.drain.begun)

    def open_call(self, request: CallRequest) -> CallAccepted:
        """Open a call at a backend and here.

        Raises:
            Draining: while no new calls are taken.
            Full: when there is no room here or at any backend.
            BackendError: when no backend can take such a session.
            LocalProtocolError: when the call id is taken.
        """
        self._log.attempted()
        try:
            if self.drain.begun:
                raise Draining("this transceiver takes no new calls")
            if len(self._router) >= self._capacity:
                raise Full(f"all {self._capacity} places of this transceiver are taken")
            return self._open(request)
        except Draining as error:
            self._log.refused(request, EndReason.DRAINING, error)
            raise
        except (Full, NoCapacity) as error:
            self._log.refused(request, EndReason.FULL, error)
            raise Full(str(error)) from None
        except BackendError as error:
            self._log.refused(request, EndReason.BACKEND_REFUSED, error)
            raise

    def _open(self, request: CallRequest) -> CallAccepted:
        name = str(request.session.get("model") or self._backends[0])
        backend = self._pool.open(name, request.call_id, request.tenant, request.session, request.metadata)
        try:
            return self._router.place(request, backend, trio.current_time())
        except BaseException:
            backend.end(EndReason.INTERNAL_ERROR)
            raise
        finally:
            self._pump.flush()

    async def wait_drained(self) -> None:
        """Return when the process is to end and has no calls any more. Calls that outlast the drain are ended."""
        await self.drain.wait_left(lambda: not len(self._router), self._end_calls)

    async def _end_calls(self) -> None:
        """End every call, after its caller and the requests that wait for its end could read why."""
        log.warning("calls end, because the time to drain is up", extra={"calls": len(self._router)})
        for call in list(self._router):
            self._router.announce_end(call, DRAINED_CODE, DRAINED_MESSAGE, trio.current_time())
        self._pump.flush()
        await trio.sleep(CLOSE_SECONDS)
        for call in list(self._router):
            self._router.end(call, EndReason.DRAINED, DRAINED_MESSAGE, trio.current_time())
        self._pump.flush()
        await trio.sleep(CLOSE_SECONDS)
