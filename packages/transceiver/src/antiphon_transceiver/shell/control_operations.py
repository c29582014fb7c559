"""The operations of the control API on calls: look one up, wait for its end, end it, restart its ICE, claim others."""

import logging

import trio

from antiphon_common.control import ANY_GENERATION, CallAccepted, CallStatus, IceUpdate
from antiphon_common.errors import AntiphonError
from antiphon_common.routing import Owner
from antiphon_transceiver.call_router import CallEnded, CallRouter, Event
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.shell.packet_pump import PacketPump

log = logging.getLogger(__name__)


class NoCall(AntiphonError):
    """The tenant has no such call."""


class Stale(AntiphonError):
    """An update that names an earlier ICE generation than the current one."""


class ControlOperations:
    """The operations on the calls of one router. The control API calls one for each request.

    Subscribe `handle_event` to the packet pump: requests that wait for the end of a call depend on it.
    """

    def __init__(self, router: CallRouter, pump: PacketPump) -> None:
        self._router = router
        self._pump = pump
        self._ends: dict[str, trio.Event] = {}
        """By call id: set when the call ends. Only for calls whose end a request waits for."""

    def handle_event(self, event: Event) -> None:
        """Wake the requests that wait for the end of a call, when it ends."""
        if isinstance(event, CallEnded):
            ended = self._ends.pop(event.call.id, None)
            if ended is not None:
                ended.set()

    def list_calls(self) -> tuple[list[str], list[str]]:
        """Return the ids of the calls that never connected so far, and of those that did."""
        calls: tuple[list[str], list[str]] = ([], [])
        for call in self._router:
            calls[call.connected].append(call.id)
        return calls

    def status(self, call_id: str, tenant: str) -> CallStatus | None:
        """Return the state of a tenant's call, running or recently ended."""
        return self._router.status(call_id, tenant, trio.current_time())

    async def wait_ended(self, call_id: str, tenant: str, seconds: float) -> CallStatus | None:
        """Return a call's status once it has ended, or after `seconds`; None when there is no such call."""
        if self._router.find(call_id, tenant) is not None:
            with trio.move_on_after(seconds):
                await self._ends.setdefault(call_id, trio.Event()).wait()
        return self.status(call_id, tenant)

    def end_call(self, call_id: str, tenant: str) -> bool:
        """End a tenant's call; return whether there was one."""
        call = self._router.find(call_id, tenant)
        if call is None:
            return False
        self._router.end(call, EndReason.HANGUP, "hung up over the control API", trio.current_time())
        self._pump.flush()
        return True

    def update_ice(self, call_id: str, tenant: str, update: IceUpdate) -> CallAccepted | None:
        """Restart ICE and return the answer. Candidates alone change nothing, and None is returned.

        Raises:
            NoCall: when the tenant has no such call.
            Stale: when the update names credentials that are not our newest.
            TooManyRestarts: when the call has restarted ICE too often.
        """
        call = self._router.find(call_id, tenant)
        if call is None:
            raise NoCall("there is no such call")
        if update.generation not in (ANY_GENERATION, call.answer.ice.ufrag):
            raise Stale("the call has newer ICE credentials than this update goes by")
        if update.ice is None:
            return None
        log.info("call restarts ICE", extra={"call": call_id})
        answer = self._router.restart_ice(call, update.ice, trio.current_time())
        if answer is None:
            raise NoCall("there is no such call")
        return answer

    def claim_calls(self, previous: Owner) -> None:
        """Have relays send here what is for calls whose tokens name `previous`.

        Raises LocalProtocolError when `previous` is this transceiver, or one owner too many.
        """
        self._router.claim_calls(previous, trio.current_time())
        self._pump.flush()

    def stop_claiming(self, previous: Owner) -> bool:
        """Undo `claim_calls`; return whether those calls were claimed."""
        return self._router.relays.announcements.stop_claiming(previous)
