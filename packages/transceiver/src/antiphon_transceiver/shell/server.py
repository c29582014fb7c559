"""The transceiver's Trio shell: the link socket, the clock and the backends around one switchboard."""

import logging
from collections.abc import Callable, Sequence

import trio

from antiphon_common.control import ANY_GENERATION, CallAccepted, CallRequest, CallStatus, IceUpdate, Load
from antiphon_common.core import Path
from antiphon_common.errors import AntiphonError
from antiphon_common.link import Owner
from antiphon_common.shell.supervise import Drain
from antiphon_common.shell.system_calls import BATCH
from antiphon_common.shell.turns import Turns
from antiphon_common.shell.udp import BatchSocket
from antiphon_transceiver import events
from antiphon_transceiver.backends import BackendError, BackendPool, InboundFrame, NoCapacity
from antiphon_transceiver.call import Call
from antiphon_transceiver.metrics import TransceiverMetrics
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.relays import AddressMoved, IngressFound, IngressLost, RelayBegan, RelaySilenced
from antiphon_transceiver.switchboard import (
    CallConnected,
    CallEnded,
    CallRaised,
    CallReported,
    CallThrottled,
    Event,
    Switchboard,
)

log = logging.getLogger(__name__)

DRAIN_BUDGET = 8
"""Batches read from the link before other tasks get a turn."""

FAREWELL_SECONDS = 0.5
"""Time for what is said to callers to arrive, if need be the second time, and for answers to signaling."""

DRAINED_CODE = "drained"
DRAINED_MESSAGE = "this server stops: call again"


class Full(AntiphonError):
    """No capacity is left here; the offer is to be tried elsewhere or later."""


class Draining(AntiphonError):
    """The transceiver takes no new calls; the offer is to be tried elsewhere."""


class NoCall(AntiphonError):
    """The tenant has no such call."""


class Stale(AntiphonError):
    """An update that goes by an earlier ICE generation than the current one."""


class TransceiverServer:
    """Feeds one switchboard with datagrams, time, backend frames and requests, and carries out what it answers.

    `backends` are the names of the pool; the first takes the calls whose session names no model. `is_relay` tells of a
    host whether its link datagrams are taken.
    """

    def __init__(
        self,
        switchboard: Switchboard,
        link: BatchSocket,
        pool: BackendPool,
        metrics: TransceiverMetrics,
        *,
        backends: Sequence[str],
        capacity: int,
        is_relay: Callable[[str], bool],
        drain: Drain,
    ) -> None:
        self.switchboard = switchboard
        self.metrics = metrics
        self.drain = drain
        self.strangers = 0
        """Link datagrams dropped because no relay may be where they came from."""
        self._link = link
        self._pool = pool
        self._backends = backends
        self._capacity = capacity
        self._is_relay = is_relay
        self._turns = Turns(link.fileno())
        self._waiting: dict[str, trio.Event] = {}
        pool.delivered = self._flush

    async def run(self) -> None:
        """Serve the link and the clock until cancelled; then end every call."""
        try:
            moved = False
            while True:
                await self._turns.wait(self.switchboard.poll_timeout(), moved=moved)
                moved = self._drain_link()
                self.switchboard.handle_timeout(trio.current_time())
                self._flush()
        finally:
            for call in list(self.switchboard):
                self.switchboard.end(call, EndReason.SHUTDOWN, "the transceiver stops", trio.current_time())
            self._flush()

    async def leave(self) -> None:
        """Take no new calls once the drain has begun, and return when the process is to end and has none any more."""
        await self.drain.wait_left(lambda: not len(self.switchboard), self._end_calls)

    async def _end_calls(self) -> None:
        """End every call, after its caller and whoever waits for its end could read why."""
        log.warning("calls end, because the time to drain is up", extra={"calls": len(self.switchboard)})
        for call in list(self.switchboard):
            self.switchboard.announce_end(call, DRAINED_CODE, DRAINED_MESSAGE, trio.current_time())
        self._flush()
        await trio.sleep(FAREWELL_SECONDS)
        for call in list(self.switchboard):
            self.switchboard.end(call, EndReason.DRAINED, DRAINED_MESSAGE, trio.current_time())
        self._flush()
        await trio.sleep(FAREWELL_SECONDS)

    # Requests of the control API

    def start_call(self, request: CallRequest) -> CallAccepted:
        """Open a call at a backend and here.

        Raises `Draining`, `Full` when there is no room here or at any backend, another `BackendError` when no backend
        can take such a session, and `LocalProtocolError` when the call id is taken.
        """
        self.metrics.attempted.inc()
        try:
            if self.drain.begun:
                raise Draining("this transceiver takes no new calls")
            if len(self.switchboard) >= self._capacity:
                raise Full(f"all {self._capacity} places of this transceiver are taken")
            return self._open(request)
        except Draining as error:
            self._refused(request, EndReason.DRAINING, error)
            raise
        except (Full, NoCapacity) as error:
            self._refused(request, EndReason.FULL, error)
            raise Full(str(error)) from None
        except BackendError as error:
            self._refused(request, EndReason.BACKEND_REFUSED, error)
            raise

    def _open(self, request: CallRequest) -> CallAccepted:
        def sink(frame: InboundFrame, now: float) -> None:
            call = self.switchboard.find(request.call_id, request.tenant)
            if call is not None:
                self.switchboard.receive_frame(call, frame, now)

        name = str(request.session.get("model") or self._backends[0])
        backend = self._pool.open(name, request.call_id, request.tenant, request.session, request.metadata, sink)
        try:
            return self.switchboard.place(request, backend, trio.current_time())
        except BaseException:
            backend.end(EndReason.INTERNAL_ERROR)
            raise
        finally:
            self._flush()

    def _refused(self, request: CallRequest, reason: EndReason, error: Exception) -> None:
        self.metrics.failed.labels(reason).inc()
        log.warning("set-up failed", extra={"call": request.call_id, "reason": reason, "detail": str(error)})

    def end_call(self, call_id: str, tenant: str, reason: EndReason = EndReason.HANGUP) -> bool:
        """End a tenant's call; return whether there was one."""
        call = self.switchboard.find(call_id, tenant)
        if call is None:
            return False
        self.switchboard.end(call, reason, "hung up over the control API", trio.current_time())
        self._flush()
        return True

    def update_ice(self, call_id: str, tenant: str, update: IceUpdate) -> CallAccepted | None:
        """Restart ICE, or take note of candidates, which change nothing; return the answer of a restart.

        Raises `NoCall`, `Stale` when the client goes by credentials that are not our newest, and `TooManyRestarts`.
        """
        call = self.switchboard.find(call_id, tenant)
        if call is None:
            raise NoCall("there is no such call")
        if update.generation not in (ANY_GENERATION, call.answer.ice.ufrag):
            raise Stale("the call has newer ICE credentials than this update goes by")
        if update.ice is None:
            return None
        log.info("call restarts ICE", extra={"call": call_id})
        answer = self.switchboard.restart_ice(call, update.ice, trio.current_time())
        if answer is None:
            raise NoCall("there is no such call")
        return answer

    def claim_calls(self, previous: Owner) -> None:
        """Have relays send here what is for calls whose tokens name `previous`. Raises `LocalProtocolError`."""
        self.switchboard.claim_calls(previous, trio.current_time())
        self._flush()

    async def wait_ended(self, call_id: str, tenant: str, seconds: float) -> CallStatus | None:
        """Return a call's status once it has ended, or after `seconds`; None when there is no such call."""
        if self.switchboard.find(call_id, tenant) is not None:
            with trio.move_on_after(seconds):
                await self._waiting.setdefault(call_id, trio.Event()).wait()
        return self.status(call_id, tenant)

    def status(self, call_id: str, tenant: str) -> CallStatus | None:
        """Return the state of a tenant's call, running or recently ended."""
        return self.switchboard.status(call_id, tenant, trio.current_time())

    def load(self) -> Load:
        return Load(len(self.switchboard), self._capacity, self.drain.begun)

    def ready(self) -> bool:
        """Whether an offer would be taken, and find a backend now."""
        return not self.drain.begun and any(self._pool.connected(name) for name in self._backends)

    # The loop

    def _drain_link(self) -> bool:
        """Take what waits at the link; return whether there was anything."""
        switchboard = self.switchboard
        moved = False
        for _ in range(DRAIN_BUDGET):
            batch = self._link.receive_batch()
            moved = moved or bool(batch)
            now = trio.current_time()
            for data, relay in batch:
                if self._is_relay(relay[0]):
                    switchboard.receive_datagram(data, relay, now)
                else:
                    self.strangers += 1
            if len(batch) < BATCH:
                break
            self._send()
        return moved

    def _flush(self) -> None:
        """Carry out everything the switchboard has to say, and wake the loop in time for its next deadline."""
        self._send()
        while (event := self.switchboard.poll_event()) is not None:
            self._report(event)
        self._turns.hasten(self.switchboard.poll_timeout())

    def _send(self) -> None:
        switchboard = self.switchboard
        while (transmit := switchboard.poll_transmit()) is not None:
            self._link.queue(transmit.data, transmit.relay)
        self._link.flush()
        self._pool.flush()

    # Events

    def _report(self, event: Event) -> None:
        match event:
            case CallConnected(call, connected, path):
                self._connected(call, connected, path)
            case CallThrottled(call):
                log.warning("call exceeds its budget, and loses packets", extra={"call": call.id})
            case CallReported(call, happened):
                self._reported(call, happened)
            case CallEnded(call, reason, detail, error):
                self._ended(call, reason, detail, error)
            case CallRaised(call, error):
                log.error("call raised after its end", extra={"call": call.id}, exc_info=error)
            case RelayBegan(relay):
                log.info("relay began", extra={"relay": str(Path.of(*relay))})
            case RelaySilenced(relay):
                log.info("relay silent", extra={"relay": str(Path.of(*relay))})
            case AddressMoved(ingress):
                log.info("shared address moved", extra={"ingress": ingress})
            case IngressLost(ingress):
                log.warning("ingress lost: none of its relays is heard", extra={"ingress": ingress})
            case IngressFound(ingress, relay):
                log.info("ingress found", extra={"ingress": ingress, "relay": str(Path.of(*relay))})

    def _connected(self, call: Call, event: events.Connected, path: Path | None) -> None:
        self.metrics.connected.inc()
        self.metrics.setup_seconds.observe(event.handshake_after)
        figures = {
            "path": path,
            "srtp": event.srtp_profile.name,
            "first_check_ms": round(event.first_check_after * 1000),
            "handshake_ms": round(event.handshake_after * 1000),
        }
        log.info("call connected", extra={"call": call.id, **figures})

    def _reported(self, call: Call, event: events.Event) -> None:
        match event:
            case events.MediaMissing():
                self.metrics.failed.labels(EndReason.NO_MEDIA).inc()
                detail = "connected, but no audio came; the call goes on"
                log.warning("set-up failed", extra={"call": call.id, "reason": EndReason.NO_MEDIA, "detail": detail})
            case events.MediaStarted(after):
                log.info("call heard", extra={"call": call.id, "first_audio_ms": round(after * 1000)})
            case events.MediaEnded():
                log.info("call's audio ended", extra={"call": call.id})
            case events.Disconnected():
                log.warning("call disconnected", extra={"call": call.id})
            case events.Reconnected():
                log.info("call reconnected", extra={"call": call.id})

    def _ended(self, call: Call, reason: EndReason, detail: str, error: Exception | None) -> None:
        waiting = self._waiting.pop(call.id, None)
        if waiting is not None:
            waiting.set()
        what = {"call": call.id, "reason": reason, "detail": detail}
        if call.connected:
            self.metrics.ended.labels(reason).inc()
            log.log(logging.INFO if error is None else logging.ERROR, "call ended", extra=what, exc_info=error)
        else:
            self.metrics.failed.labels(reason).inc()
            log.warning("set-up failed", extra=what, exc_info=error)
