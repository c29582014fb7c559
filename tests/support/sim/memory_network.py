"""Two protocol cores and the network between them, in memory and under virtual time."""

import heapq
import itertools
from collections.abc import Callable
from math import inf
from random import Random
from typing import Generic, TypeVar

from antiphon_common.core import Core, Path, Transmit
from support.net.impairment import PERFECT, ImpairedLink, Impairment

Left = TypeVar("Left")
Right = TypeVar("Right")
Event = TypeVar("Event")

MAX_STEPS_AT_ONCE = 10_000
"""Steps without time passing after which a core must be asking for a timeout in the past again and again."""


class Station(Generic[Event]):
    """A core, the path by which the other side knows it, and the way its datagrams go.

    Change `path` for a NAT rebinding: from then on datagrams come from the new one, and those to the old one are lost.
    Replace `rewrite` to tamper: it takes each outgoing datagram and returns those that are sent instead.
    """

    def __init__(self, core: Core[Event], path: Path, link: ImpairedLink) -> None:
        self.core = core
        self.path = path
        self.link = link
        self.events: list[Event] = []
        self.sent: list[bytes] = []
        self.misdirected = 0
        self.rewrite: Callable[[bytes], list[bytes]] = lambda datagram: [datagram]

    def collect_events(self) -> None:
        while (event := self.core.poll_event()) is not None:
            self.events.append(event)


class MemoryNetwork(Generic[Left, Right]):
    """Carries datagrams between two cores and drives their timers. `now` is in seconds and begins at zero."""

    def __init__(
        self, left: Core[Left], right: Core[Right], impairment: Impairment = PERFECT, *, seed: int = 0
    ) -> None:
        self.now = 0.0
        random = Random(seed)
        self.left = Station(left, Path.of("192.0.2.1", 1001), ImpairedLink(impairment, random))
        self.right = Station(right, Path.of("198.51.100.2", 2002), ImpairedLink(impairment, random))
        self._in_flight: list[tuple[float, int, bytes, Path, Station[Left] | Station[Right]]] = []
        self._order = itertools.count()

    def drain(self) -> None:
        """Send what the cores have to send, and collect their events. Call it after a direct action on one of them."""
        self._drain(self.left, self.right)
        self._drain(self.right, self.left)

    def run(self, until: Callable[[], bool] = lambda: False, *, limit: float) -> bool:
        """Let time pass until `until` holds, at most to the absolute time `limit`. Return whether it holds."""
        self.drain()
        steps = 0
        while not until():
            due = self._next_due()
            if due == inf or due > limit:
                self.now = max(self.now, limit)
                return False
            steps = steps + 1 if due <= self.now else 0
            if steps > MAX_STEPS_AT_ONCE:
                raise AssertionError(f"a core never stops wanting to be called at {due}")
            self.now = max(self.now, due)
            self.step()
        return True

    def _next_due(self) -> float:
        due = [self.left.core.poll_timeout(), self.right.core.poll_timeout()]
        if self._in_flight:
            due.append(self._in_flight[0][0])
        return min(due)

    def step(self) -> None:
        """Deliver one datagram that is due, or else fire the timers that are."""
        if self._in_flight and self._in_flight[0][0] <= self.now:
            _, _, datagram, source, receiver = heapq.heappop(self._in_flight)
            receiver.core.receive_datagram(datagram, source, self.now)
        else:
            for station in (self.left, self.right):
                if station.core.poll_timeout() <= self.now:
                    station.core.handle_timeout(self.now)
        self.drain()

    def _drain(self, sender: Station[Left] | Station[Right], receiver: Station[Left] | Station[Right]) -> None:
        while (transmit := sender.core.poll_transmit()) is not None:
            self._send(transmit, sender, receiver)
        sender.collect_events()

    def _send(
        self, transmit: Transmit, sender: Station[Left] | Station[Right], receiver: Station[Left] | Station[Right]
    ) -> None:
        if transmit.path is not None and transmit.path != receiver.path:
            sender.misdirected += 1
            return
        for datagram in sender.rewrite(transmit.data):
            sender.sent.append(datagram)
            for arrival in sender.link.arrivals(len(datagram), self.now):
                heapq.heappush(self._in_flight, (arrival, next(self._order), datagram, sender.path, receiver))
