"""Selects a connection for each call to one backend, without IO: for new calls, and for calls that lost theirs."""

from collections import deque
from collections.abc import Mapping
from math import inf
from typing import Any

from antiphon_common import frames
from antiphon_transceiver.backends.call import RESUME_SECONDS, BackendCall, BackendCallState, BackendCounters
from antiphon_transceiver.backends.connection import BACKEND_LOST, BUSY, BackendConnection, Delivery, NoCapacity

MAX_TRIES = 16
"""Starts of a call that does not run well for `RESUME_SECONDS` in between. Refusals need several where other
transceivers fill the same addresses. A call that makes backends crash must not visit all of them."""

LOOK_INTERVAL = 0.1
"""Seconds between two looks for a free slot while a call waits for one."""


class BackendSelector:
    """Assigns calls to the connection with most free slots: new calls, and calls whose connection was lost.

    The shell keeps `connections`, calls `collect` after each input of one and `connection_lost` at its end, and then
    delivers what `poll_event` returns. It calls `handle_timeout` also when a backend has sent its hello.
    """

    def __init__(self, preferred_format: str, counters: BackendCounters) -> None:
        self.connections: list[BackendConnection] = []
        self.counters = counters
        self.preferred_format = preferred_format
        self._awaiting: dict[BackendCall, None] = {}
        self._next_look = 0.0
        self._now = 0.0
        self._deliveries: deque[Delivery] = deque()

    @property
    def connected(self) -> bool:
        """Whether the backend has sent its hello on any connection."""
        return any(connection.greeted for connection in self.connections)

    def free_slots(self, now: float) -> int:
        """Return how many calls more the backend takes now, over all its connections."""
        return sum(connection.free_slots(now) for connection in self.connections)

    def open(
        self,
        call_id: str,
        tenant: str,
        session: Mapping[str, Any],
        metadata: Mapping[str, str],
        now: float,
    ) -> BackendCall:
        """Start a call. Raises `NoCapacity` without a free slot, `SessionTooLarge`."""
        connection = self._choose(now)
        audio_format = None if connection is None else connection.choose_format(self.preferred_format)
        if connection is None or audio_format is None:
            raise NoCapacity(f"no free slot on {len(self.connections)} connections")
        return connection.open(audio_format, call_id, tenant, session, metadata, now)

    def collect(self, connection: BackendConnection, now: float) -> None:
        """Take the deliveries of a connection over; drain `poll_event` afterwards."""
        self._now = now
        while (delivery := connection.poll_event()) is not None:
            self._deliveries.append(delivery)

    def connection_lost(self, connection: BackendConnection, now: float) -> None:
        """Remove a connection that is lost, and reassign its calls; drain `poll_event` afterwards."""
        self.connections.remove(connection)
        connection.connection_lost()
        self.collect(connection, now)

    def handle_timeout(self, now: float) -> None:
        """Reassign calls to free slots, and end those that waited too long; drain `poll_event` afterwards."""
        self._now = now
        full: set[str] = set()  # formats without a free slot on any connection, determined once for all calls
        for call in list(self._awaiting):
            if call.state is not BackendCallState.LOST or (call.format not in full and self._place(call, now)):
                del self._awaiting[call]
                continue
            if call.tries < MAX_TRIES:
                full.add(call.format)
            if not self._may_wait(call, now):
                del self._awaiting[call]
                self._give_up(call)
                self._deliveries.append(Delivery(call, frames.Ended(call.number, BACKEND_LOST)))
        self._next_look = now + LOOK_INTERVAL

    def poll_event(self) -> Delivery | None:
        """Return the next frame to deliver to a call, or None. The end of a call that goes on elsewhere is none."""
        deliveries = self._deliveries
        while deliveries:
            delivery = deliveries.popleft()
            if not delivery.call.detached and not self._reassigned(delivery, self._now):
                return delivery
        return None

    def poll_timeout(self) -> float:
        """Return when `handle_timeout` is due; infinity while no call waits for a connection."""
        return self._next_look if self._awaiting else inf

    def _choose(self, now: float, audio_format: str | None = None) -> BackendConnection | None:
        """Return the connection with most free slots, of those that take a format."""
        free = [
            (connection.free_slots(now), connection)
            for connection in self.connections
            if audio_format is None or connection.takes(audio_format)
        ]
        slots, connection = max(free, key=lambda pair: pair[0], default=(0, None))
        return connection if slots else None

    def _reassigned(self, delivery: Delivery, now: float) -> bool:
        """Reassign a call that its connection has ended. Return True if the call goes on, so that its session need not
        be notified.

        A call whose connection was lost may wait for a free slot. A new call that a backend refuses as full is started
        on another connection once, if that is possible at once.
        """
        call, frame = delivery
        if isinstance(frame, frames.Ended) and call.state is BackendCallState.LOST:
            return self._reassign(call, now)
        if not isinstance(frame, frames.Refused) or frame.code not in BUSY:
            return False
        if call.give_up_at is not None:
            call.state = BackendCallState.LOST
            return self._reassign(call, now)
        retried = call.tries < 2 and self._place(call, now)
        self.counters.calls_retried += retried
        return retried

    def _reassign(self, call: BackendCall, now: float) -> bool:
        if call.accepted_at is not None and now >= call.accepted_at + RESUME_SECONDS:
            call.tries = 0
        if call.give_up_at is None:
            call.give_up_at = now + RESUME_SECONDS
        if not self._may_wait(call, now):
            self._give_up(call)
            return False
        if not self._place(call, now):
            self._awaiting[call] = None
        return True

    def _place(self, call: BackendCall, now: float) -> bool:
        connection = self._choose(now, call.format) if call.tries < MAX_TRIES else None
        if connection is not None:
            connection.resume(call, now)
        return connection is not None

    def _may_wait(self, call: BackendCall, now: float) -> bool:
        return call.give_up_at is not None and now < call.give_up_at and call.tries < MAX_TRIES

    def _give_up(self, call: BackendCall) -> None:
        self.counters.calls_lost += 1
        call.close()
