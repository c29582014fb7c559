"""Chooses the packets that a relay drops itself when it is overloaded, before the kernel drops at random.

Reading a packet costs a third of forwarding it. While packets arrive faster than they can be forwarded, some are read
and dropped. Confirmed flows go first, then provisional ones, then unknown paths. A batch keeps only a few of its
binding requests, since reading a token costs several times what forwarding does. If that is not enough, the owners that
receive or send most lose packets: a budget, which decreases while overload lasts and increases after it, is divided so
that an owner below its share loses nothing (max-min fairness).
"""

from collections.abc import Container, Mapping, Sequence
from math import inf

from antiphon_common.link import HEADER_SIZE
from antiphon_relay.flows import BINDING_REQUEST, Datagram, Flow

RESERVED_CONFIRMED, RESERVED_PROVISIONAL, RESERVED_UNKNOWN = 4, 32, 16
"""Requests of an overloaded batch that are still read: from each confirmed flow, from all provisional flows together,
and from all unknown paths together. Behind a flood of requests live audio waits, also behind a flood whose spoofed
source is a live client."""

WINDOW_SECONDS = 0.05
"""Seconds over which packets are counted. The first overloaded window only counts: a burst, or what waited through a
stall, is forwarded in less."""
MIN_SHARE = 250
"""Packets of each owner and window that always pass: 5,000 a second, of a hundred calls."""
DECREASE, INCREASE = 0.75, 1.25
"""Factors of the budget after a window that ended overloaded, and after one that did not."""
CONFIRMED, PROVISIONAL = 1, 2
"""Weight of a packet in its owner's share, by the kind of its flow."""


class FairShareLimiter:
    """Limits the packets of one socket. A relay passes its batches through it while it is overloaded or `active`.

    It becomes `active` with the first overload, and stays so until all that arrives fits the budget again. It counts
    owners for one window at a time, so it holds no more of them than packets arrive in that window.
    """

    __slots__ = ("_arrived", "_budget", "_level", "_overloaded", "_passed", "_until", "_weights", "active")

    def __init__(self) -> None:
        self.active = False
        self._arrived: dict[bytes, int] = {}
        self._weights: set[int] = set()
        self._passed: dict[bytes, int] = {}
        self._level = self._budget = inf
        self._overloaded = False
        self._until = 0.0

    def limit_uplink(
        self, flows: Mapping[bytes, Flow], batch: Sequence[Datagram], now: float, *, overloaded: bool
    ) -> list[Datagram]:
        """Return the datagrams of a batch from clients that may be forwarded, the most important first."""
        self._begin(now, overloaded=overloaded)
        reserved: dict[Flow | str, int] = {"provisional": RESERVED_PROVISIONAL, "unknown": RESERVED_UNKNOWN}
        confirmed: list[Datagram] = []
        provisional: list[Datagram] = []
        limited: list[Datagram] = []
        for datagram in batch:
            flow = flows.get(datagram[1])
            request = datagram[0][:2] == BINDING_REQUEST
            if overloaded and request:
                kind = "unknown" if flow is None else flow if flow.confirmed else "provisional"
                left = reserved.get(kind, RESERVED_CONFIRMED)
                if not left:
                    continue
                reserved[kind] = left - 1
            if flow is None or request or flow.is_spent(now):
                limited.append(datagram)  # by limits of its own; it does not count towards its owner's share
            elif flow.confirmed:
                if self._allow(flow.owner, CONFIRMED):
                    confirmed.append(datagram)
            elif self._allow(flow.owner, PROVISIONAL):
                provisional.append(datagram)
        return confirmed + provisional + limited

    def limit_downlink(
        self, headers: Container[bytes], batch: Sequence[Datagram], now: float, *, overloaded: bool
    ) -> list[Datagram]:
        """Return the datagrams of a batch from owners that may be forwarded. `headers` are those of confirmed flows."""
        self._begin(now, overloaded=overloaded)
        return [
            (data, source)
            for data, source in batch
            if self._allow(source, CONFIRMED if data[:HEADER_SIZE] in headers else PROVISIONAL)
        ]

    def _begin(self, now: float, *, overloaded: bool) -> None:
        if now >= self._until:
            if self.active:
                self._divide(late=now >= self._until + WINDOW_SECONDS)
            self._until = now + WINDOW_SECONDS
            self._arrived = {}
            self._weights = set()
            self._passed = {}
        self._overloaded = overloaded
        self.active = self.active or overloaded

    def _allow(self, owner: bytes, weight: int) -> bool:
        """Count a packet towards an owner, and return whether it is within the owner's share."""
        self._arrived[owner] = self._arrived.get(owner, 0) + 1
        self._weights.add(weight)
        passed = self._passed.get(owner, 0) + 1
        if passed * weight > self._level:
            return False
        self._passed[owner] = passed
        return True

    def _divide(self, *, late: bool) -> None:
        """End a window: set the budget of the next window, and each owner's share of it.

        If nothing has arrived for a whole window, the overload is over. With one owner's flows of one kind no other is
        protected by a limit, and there is none.
        """
        self._budget = sum(self._passed.values()) * DECREASE if self._overloaded else self._budget * INCREASE
        alone = len(self._arrived) < 2 and len(self._weights) < 2
        if late or alone or sum(self._arrived.values()) <= self._budget:
            self.active = False
            self._level = self._budget = inf
        else:
            self._level = max(MIN_SHARE, _level(sorted(self._arrived.values()), self._budget))


def _level(counts: Sequence[int], budget: float) -> float:
    """Return the limit that brings the sum of rising `counts` down to `budget`."""
    for index, count in enumerate(counts):
        share = budget / (len(counts) - index)
        if count > share:
            return share
        budget -= count
    return inf
