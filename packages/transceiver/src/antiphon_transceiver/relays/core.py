"""The relays of one transceiver as one machine: table, routes and announcements, driven together."""

from collections import deque

import msgspec

from antiphon_common.link import RelayHello
from antiphon_common.routing import Owner
from antiphon_transceiver.relays.announcements import Announcements, Notice
from antiphon_transceiver.relays.routes import RouteTable
from antiphon_transceiver.relays.table import (
    Address,
    AddressMoved,
    IngressFound,
    RelaySilenced,
    RelayTable,
    TableEvent,
)


class RoutesChanged(msgspec.Struct, frozen=True):
    """Paths were led over another relay of their ingress."""

    count: int


Event = TableEvent | RoutesChanged


class Relays:
    """Every relay that sends HELLO to `owner`, and what each has to learn. It has no IO; times in seconds.

    Feed it HELLOs, packets' sources and the time. `poll_transmit` returns the messages to send.
    """

    def __init__(self, owner: Owner) -> None:
        self.table = RelayTable()
        self.routes = RouteTable()
        self.announcements = Announcements(owner, self.table)
        self._events: deque[Event] = deque()

    def receive_hello(self, hello: RelayHello, address: Address, now: float, datagram: bytes = b"") -> None:
        """Take an authenticated HELLO, and announce everything to the relay if it is new."""
        if self.table.receive_hello(hello, address, now, datagram):
            self.announcements.begin(address, now)

    def handle_timeout(self, now: float) -> None:
        """Announce what is due, and find the relays that fell silent."""
        self.announcements.handle_timeout(now)
        self.table.handle_timeout(now)

    def poll_transmit(self) -> Notice | None:
        """Return the next message, and the relays it goes to, or None."""
        notices = self.announcements.notices
        return notices.popleft() if notices else None

    def poll_event(self) -> Event | None:
        """Return the next event, or None. Paths are led around a relay before its silence is reported."""
        if self.table.events:
            self._follow_table()
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float:
        """Return when `handle_timeout` is due; infinity for never."""
        announcements = self.announcements
        return min(announcements.announce_at, announcements.repeat_at, self.table.silent_at)

    def _follow_table(self) -> None:
        while self.table.events:
            event = self.table.events.popleft()
            self._events.append(event)
            changed = self._reroute(event)
            if changed:
                self._events.append(RoutesChanged(changed))

    def _reroute(self, event: TableEvent) -> int:
        match event:
            case RelaySilenced(relay):
                return self.routes.leave_relay(relay, self.table)
            case IngressFound(ingress) | AddressMoved(ingress):
                return self.routes.check_ingress(ingress, self.table)
        return 0
