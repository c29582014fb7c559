"""Every connection to one backend, without IO: which takes a new call, and where calls go that lose theirs."""

from collections import deque
from collections.abc import Mapping
from math import inf
from typing import Any

from antiphon_common import frames
from antiphon_transceiver.backends.call import RESUME_SECONDS, BackendCall, CallState, LinkCounters, Sink
from antiphon_transceiver.backends.connection import BACKEND_LOST, BUSY, BackendLink, Delivery, NoCapacity

MAX_TRIES = 16
"""How often a call is started without going well for `RESUME_SECONDS` in between. Refusals need several where others
fill the same addresses; a call that makes every backend crash must not go on to the next for ever."""

LOOK_INTERVAL = 0.1
"""Seconds between two looks for a free slot while a call waits for one."""


class BackendGroup:
    """Gives calls to the connection with most free slots, new ones and those whose connection was lost.

    The shell keeps `links`, asks `keep` before it hands a delivery to its sink, and calls `handle_timeout` also when a
    connection was lost or greeted, so that no call waits longer than it must.
    """

    def __init__(self, preferred_format: str, counters: LinkCounters) -> None:
        self.links: list[BackendLink] = []
        self.counters = counters
        self.preferred_format = preferred_format
        self._homeless: dict[BackendCall, None] = {}
        self._next_look = 0.0
        self._events: deque[Delivery] = deque()

    @property
    def connected(self) -> bool:
        """Whether the backend has said hello on any connection."""
        return any(link.greeted for link in self.links)

    def free_slots(self, now: float) -> int:
        """Return how many calls more the backend takes now, over all its connections."""
        return sum(link.free_slots(now) for link in self.links)

    def open(
        self,
        call_id: str,
        tenant: str,
        session: Mapping[str, Any],
        metadata: Mapping[str, str],
        sink: Sink,
        now: float,
    ) -> BackendCall:
        """Start a call. Raises `NoCapacity` without a free slot, `SessionTooLarge`."""
        link = self._choose(now)
        audio_format = None if link is None else link.choose_format(self.preferred_format)
        if link is None or audio_format is None:
            raise NoCapacity(f"no free slot on {len(self.links)} connections")
        return link.open(audio_format, call_id, tenant, session, metadata, sink, now)

    def keep(self, delivery: Delivery, now: float) -> bool:
        """Take in a call that its connection has let go of, and find it another; return whether that is what the
        delivery was about. Its sink need not know then.

        A call whose connection was lost may wait for a free slot; one that was never accepted, and is refused because a
        backend is full, is started on another once if that can be done at once.
        """
        call, frame = delivery
        if isinstance(frame, frames.Ended) and call.state is CallState.LOST:
            return self._take_in(call, now)
        if not isinstance(frame, frames.Refused) or frame.code not in BUSY or call.deaf:
            return False
        if call.give_up_at is not None:
            call.state = CallState.LOST
            return self._take_in(call, now)
        retried = call.tries < 2 and self._place(call, now)
        self.counters.calls_retried += retried
        return retried

    def handle_timeout(self, now: float) -> None:
        """Look for free slots, and give up the calls that have waited too long; drain `poll_event` afterwards."""
        full: set[str] = set()  # formats that no connection has a free slot for, looked for once for all calls
        for call in list(self._homeless):
            if call.state is not CallState.LOST or (call.format not in full and self._place(call, now)):
                del self._homeless[call]
                continue
            if call.tries < MAX_TRIES:
                full.add(call.format)
            if not self._may_wait(call, now):
                del self._homeless[call]
                self._give_up(call)
                self._events.append(Delivery(call, frames.Ended(call.number, BACKEND_LOST)))
        self._next_look = now + LOOK_INTERVAL

    def poll_event(self) -> Delivery | None:
        """Return the next frame for a sink, or None."""
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float:
        """Return when `handle_timeout` is due; infinity while no call waits for a connection."""
        return self._next_look if self._homeless else inf

    def _choose(self, now: float, audio_format: str | None = None) -> BackendLink | None:
        """Return the connection with most free slots, of those that take a format."""
        free = [(link.free_slots(now), link) for link in self.links if audio_format is None or link.takes(audio_format)]
        slots, link = max(free, key=lambda pair: pair[0], default=(0, None))
        return link if slots else None

    def _take_in(self, call: BackendCall, now: float) -> bool:
        if call.accepted_at is not None and now >= call.accepted_at + RESUME_SECONDS:
            call.tries = 0
        if call.give_up_at is None:
            call.give_up_at = now + RESUME_SECONDS
        if not self._may_wait(call, now):
            self._give_up(call)
            return False
        if not self._place(call, now):
            self._homeless[call] = None
        return True

    def _place(self, call: BackendCall, now: float) -> bool:
        link = self._choose(now, call.format) if call.tries < MAX_TRIES else None
        if link is not None:
            link.resume(call, now)
        return link is not None

    def _may_wait(self, call: BackendCall, now: float) -> bool:
        return call.give_up_at is not None and now < call.give_up_at and call.tries < MAX_TRIES

    def _give_up(self, call: BackendCall) -> None:
        self.counters.calls_lost += 1
        call.close()
