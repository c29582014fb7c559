"""One call as the call router holds it: its session, the backend's half, and the relays that its paths come through."""

from contextlib import suppress
from math import ceil

import msgspec

from antiphon_common import frames
from antiphon_common.control import CallAccepted, CallRequest, CallStatus
from antiphon_common.core import Path
from antiphon_common.errors import AntiphonError, DecodeError
from antiphon_transceiver.audio import OverrunError
from antiphon_transceiver.backends.call import BackendCall, EventRefused, InboundFrame
from antiphon_transceiver.backends.link import BACKEND_LOST, NO_ANSWER
from antiphon_transceiver.budget import SENT_EVENT, Budget
from antiphon_transceiver.channels import UndeliverableError, error_event, event_id_of
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.relays import Route
from antiphon_transceiver.session import Session

ENDED_BY_LINK = {BACKEND_LOST: EndReason.BACKEND_LOST, NO_ANSWER: EndReason.BACKEND_REFUSED}
"""What the backend link itself says of a call that ended; other reasons are the backend's own words."""


MAX_RESTARTS = 1000
"""ICE restarts of one call: one every four minutes for three days."""
RESTARTS_AT_ONCE, RESTART_SECONDS = 10, 6.0
"""Restarts that may follow one another, and the seconds after which there may be one more: a client whose network comes
and goes restarts every few seconds for a while. Each makes a route token that outlives it."""


class TooManyRestarts(AntiphonError):
    """A call may not restart ICE now; `retry_after` is when it may, in whole seconds, None for never."""

    def __init__(self, retry_after: int | None) -> None:
        super().__init__("this call has restarted ICE too often")
        self.retry_after = retry_after


MAX_DETAIL = 1000
"""Characters of a backend's words that the log repeats, as many as the SDK sends."""


class Call:
    """Glue without IO between a session and its backend call."""

    def __init__(
        self, request: CallRequest, answer: CallAccepted, session: Session, backend: BackendCall, now: float
    ) -> None:
        self.id = request.call_id
        self.tenant = request.tenant
        self.ufrags = [answer.ice.ufrag.encode("ascii")]
        """Ours, of every generation that checks may still name; the newest is the last."""
        self.answer = answer
        self.session = session
        self.backend = backend
        self.started = now
        self.restarts = 0
        self._restarts_left: float = RESTARTS_AT_ONCE
        self._restarts_counted_at = now
        self.budget = Budget()
        self.connected = False
        """Whether the handshake finished."""
        self.disconnected = False
        """Whether its peer is silent: its paths are released, and any other call may take them."""
        self.failed = False
        """Whether its own code raised, after which its session is asked nothing more."""
        self.routes: dict[Path, Route] = {}
        """Bounded by the session's paths: a route is kept only for a path with an authenticated check."""
        self.routes_by_key: dict[bytes, Route] = {}
        """The same by the path's key in the link header."""

    def add_route(self, route: Route, key: bytes) -> None:
        """Send to a path by this route from now on."""
        self.routes[route.path] = self.routes_by_key[key] = route

    def remove_route(self, route: Route) -> None:
        """Send nothing to the path of a route any more."""
        self.routes.pop(route.path, None)
        self.routes_by_key.pop(route.path.encode(), None)

    def count_restart(self, now: float) -> None:
        """Count an ICE restart; raise `TooManyRestarts` when that is one too many."""
        earned = (now - self._restarts_counted_at) / RESTART_SECONDS
        left = min(self._restarts_left + earned, RESTARTS_AT_ONCE)
        if self.restarts >= MAX_RESTARTS:
            raise TooManyRestarts(None)
        if left < 1:
            raise TooManyRestarts(ceil((1 - left) * RESTART_SECONDS))
        self.restarts += 1
        self._restarts_left, self._restarts_counted_at = left - 1, now

    # From the backend

    def receive_frame(self, frame: InboundFrame, now: float) -> None:
        """Carry out one frame of the backend. What it must not have sent ends the call."""
        try:
            self._receive_frame(frame, now)
        except (OverrunError, DecodeError) as error:
            self.session.close(EndReason.BACKEND_ERROR, str(error), now)

    def _receive_frame(self, frame: InboundFrame, now: float) -> None:
        session = self.session
        match frame:
            case frames.Audio():
                session.play(frame.response, frame.data)
            case frames.ResponseEnded():
                session.end_response(frame.response)
            case frames.Clear():
                self.backend.interrupted(frame.response, session.clear(frame.response))
            case frames.ServerEvent():
                self._send_event(frame.event, now)
            case frames.HangUp():
                session.hang_up_when_played(now)
            case frames.Refused():
                session.close(EndReason.BACKEND_REFUSED, f"{frame.code}: {frame.message}"[:MAX_DETAIL], now)
            case frames.Ended():
                reason = ENDED_BY_LINK.get(frame.reason, EndReason.BACKEND_ENDED)
                session.close(reason, frame.reason[:MAX_DETAIL], now)
            case frames.BadFrame():
                session.close(EndReason.BACKEND_ERROR, f"a frame that is not allowed: {frame.detail}", now)

    def _send_event(self, event: msgspec.Raw, now: float) -> None:
        try:
            self.session.send_event(event)
            self.budget.charge(SENT_EVENT.per_byte * len(memoryview(event)), now)
        except UndeliverableError as error:
            with suppress(EventRefused):
                self.backend.send_event(error_event("event_undeliverable", str(error), event_id_of(event)))

    # To the backend

    def receive_event(self, event: msgspec.Raw) -> None:
        """Hand on an event of the caller; tell it if the backend cannot be given that."""
        try:
            self.backend.send_event(event)
        except EventRefused as error:
            self.session.refuse_event(event_id_of(event), str(error))

    def return_credit(self) -> None:
        """Give the backend credit for what has been played meanwhile."""
        drained = self.session.stream.playout.take_drained()
        if drained:
            self.backend.grant(drained)

    # For people

    def status(self) -> CallStatus:
        """Return what the control API tells of this call."""
        session = self.session
        reason = None if session.ended is None else session.ended.reason
        return CallStatus(
            self.id,
            session.state,
            reason,
            {"relay": self._relay(), "throttled": self.budget.refused, **session.statistics()},
        )

    def _relay(self) -> str | None:
        """The link address of the relay by which the caller is reached now."""
        selected = self.session.agent.selected
        route = None if selected is None else self.routes.get(selected)
        return None if route is None else str(Path.of(*route.relay))
