"""What still gets through a relay that cannot keep up, so that the kernel does not drop whatever comes.

Reading a packet costs a third of forwarding it. So while packets come faster than they can be moved, some are read and
dropped. Confirmed flows go first, then provisional ones, then unknown paths; of all binding requests a batch keeps a
few, since reading a token costs several times what forwarding does. If that does not do, those of the owners that get
or send most are dropped: a budget, which shrinks while overload lasts and grows again after it, is divided so that an
owner below its share loses nothing (max-min fairness).
"""

from collections.abc import Container, Mapping, Sequence
from math import inf

from antiphon_common.link import HEADER_SIZE
from antiphon_relay.flows import BINDING_REQUEST, Datagram, Flow

SPARED_CONFIRMED, SPARED_PROVISIONAL, SPARED_UNKNOWN = 4, 32, 16
"""Under pressure, how many requests of a batch are still looked at: from each confirmed flow, from all provisional ones
and from all unknown paths. What waits behind a flood of them is live audio; also behind one that claims to come from a
live client."""

SHARE_WINDOW = 0.05
"""Seconds over which packets are counted. The first window under pressure only counts: a burst, or what waited through
a stall, is moved in less."""
LEAST_SHARE = 250
"""Packets of each owner and window that pass in any case: 5,000 a second, of a hundred calls."""
SQUEEZE, RELAX = 0.75, 1.25
"""What becomes of the budget after a window that ended under pressure, and after one that did not."""
CONFIRMED, PROVISIONAL = 1, 2
"""What an owner's share is divided by for each kind of flow."""


class Shares:
    """Decides for one socket. It is `active` from the first pressure until all that comes fits the budget again."""

    __slots__ = ("_budget", "_came", "_level", "_parts", "_passed", "_pressed", "_until", "active")

    def __init__(self) -> None:
        self.active = False
        self._came: dict[bytes, int] = {}
        self._parts: set[int] = set()
        self._passed: dict[bytes, int] = {}
        self._level = self._budget = inf
        self._pressed = False
        self._until = 0.0

    def cut_uplink(
        self, flows: Mapping[bytes, Flow], batch: Sequence[Datagram], now: float, *, pressed: bool
    ) -> list[Datagram]:
        """Return what is to be forwarded of a batch from clients, the most important first."""
        self._begin(now, pressed=pressed)
        spared: dict[Flow | bool, int] = {False: SPARED_PROVISIONAL, True: SPARED_UNKNOWN}
        confirmed: list[Datagram] = []
        provisional: list[Datagram] = []
        limited: list[Datagram] = []
        for datagram in batch:
            flow = flows.get(datagram[1])
            request = datagram[0][:2] == BINDING_REQUEST
            if pressed and request:
                kind = flow if flow is not None and flow.confirmed else flow is None
                left = spared.get(kind, SPARED_CONFIRMED)
                if not left:
                    continue
                spared[kind] = left - 1
            if flow is None or request or flow.is_spent(now):
                limited.append(datagram)  # by limits of its own, and is no part of an owner's share
            elif flow.confirmed:
                if self._allow(flow.owner, CONFIRMED):
                    confirmed.append(datagram)
            elif self._allow(flow.owner, PROVISIONAL):
                provisional.append(datagram)
        return confirmed + provisional + limited

    def cut_downlink(
        self, headers: Container[bytes], batch: Sequence[Datagram], now: float, *, pressed: bool
    ) -> list[Datagram]:
        """Return what is to be forwarded of a batch from owners; `headers` are those of confirmed flows."""
        self._begin(now, pressed=pressed)
        return [
            (data, source)
            for data, source in batch
            if self._allow(source, CONFIRMED if data[:HEADER_SIZE] in headers else PROVISIONAL)
        ]

    def _begin(self, now: float, *, pressed: bool) -> None:
        if now >= self._until:
            if self.active:
                self._divide(late=now >= self._until + SHARE_WINDOW)
            self._until = now + SHARE_WINDOW
            self._came = {}
            self._parts = set()
            self._passed = {}
        self._pressed = pressed
        self.active = self.active or pressed

    def _allow(self, owner: bytes, part: int) -> bool:
        """Count a packet towards an owner, and return whether it is within the owner's share."""
        self._came[owner] = self._came.get(owner, 0) + 1
        self._parts.add(part)
        passed = self._passed.get(owner, 0) + 1
        if passed * part > self._level:
            return False
        self._passed[owner] = passed
        return True

    def _divide(self, *, late: bool) -> None:
        """End a window: set the budget of the next, and what each owner has of it. Where nothing has come for a whole
        window the overload is over; with one owner's flows of one kind there is nobody to spare, and nothing is cut.
        """
        self._budget = sum(self._passed.values()) * SQUEEZE if self._pressed else self._budget * RELAX
        if late or (len(self._came) < 2 and len(self._parts) < 2) or sum(self._came.values()) <= self._budget:
            self.active = False
            self._level = self._budget = inf
        else:
            self._level = max(LEAST_SHARE, _level(sorted(self._came.values()), self._budget))


def _level(counts: Sequence[int], budget: float) -> float:
    """Return where rising counts are to be cut off so that they come to `budget`."""
    for index, count in enumerate(counts):
        share = budget / (len(counts) - index)
        if count > share:
            return share
        budget -= count
    return inf
