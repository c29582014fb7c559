"""Bounds the connections of an HTTP server, in all and for each address, and the request rate of each address.

Runs under Trio or asyncio.
"""

import resource
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

import anyio

from antiphon_common.address_groups import address_group, is_loopback_group

MAX_CONNECTIONS = 2000
"""Connections at once, if the process may have twice as many descriptors. Each costs some 50 KiB."""
ADDRESS_SHARE = 4
"""Divisor for the share of one address in all connections. Loopback addresses, and those of proxies, may have all."""
REQUESTS_PER_SECOND = 100.0
REQUEST_BURST = 200.0
"""Rate and burst of connections and requests of one address. Each costs up to a millisecond, which delays media in the
same process. Requests beyond the rate wait in their connections."""
MAX_REMEMBERED = 4096
"""Addresses without a connection whose token buckets are kept."""


class HttpCounters:
    """Counts connections by outcome. They are exported as metrics of the server."""

    def __init__(self) -> None:
        self.connections = 0
        self.connections_refused = 0
        """The server is full, and no connection waits for a request."""
        self.connections_evicted = 0
        """Closed while they waited for a request, to make room for another one."""
        self.handshakes_failed = 0


class Connections:
    """The connections of one server. `admit` each accepted one.

    If there is no room, the connection is closed that has waited longest for a request: among those of the same address
    if that has its share, else among all. Connections with a request in progress stay.
    """

    def __init__(
        self,
        counters: HttpCounters,
        limit: int | None = None,
        is_shared: Callable[[str], bool] = lambda host: False,
    ) -> None:
        """`limit` is the maximum; by default MAX_CONNECTIONS, or fewer if descriptors are scarce.

        A shared address, such as loopback, may have all connections, and has no request rate.
        """
        self._is_shared = is_shared
        self._counters = counters
        self._limit = connection_limit() if limit is None else limit
        self._share = max(1, self._limit // ADDRESS_SHARE)
        self._count = 0
        self._waiting: dict[ConnectionSlot, None] = {}
        self._addresses: dict[str, _Address] = {}
        self._remembered: OrderedDict[str, _Address] = OrderedDict()

    @contextmanager
    def admit(self, host: str) -> Iterator["ConnectionSlot | None"]:
        """Hold a slot for a connection from a numeric address. Yield None if there is no room."""
        group = address_group(host)
        is_shared = is_loopback_group(group) or self._is_shared(host)
        own = self._addresses.get(group) or self._remembered.pop(group, None) or _Address(is_shared)
        if not self._make_room(own):
            self._counters.connections_refused += 1
            yield None
            return
        self._addresses[group] = own
        self._counters.connections += 1
        slot = ConnectionSlot(self, own)
        try:
            with slot.scope:
                yield slot
        finally:
            slot.leave()
            if not own.count and self._addresses.pop(group, None) is not None:
                self._remember(group, own)

    def _remember(self, group: str, own: "_Address") -> None:
        while len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        self._remembered[group] = own

    def _make_room(self, own: "_Address") -> bool:
        if own.count >= self._share and not own.is_shared:
            return self._evict(own.waiting)
        return self._count < self._limit or self._evict(self._waiting)

    def _evict(self, waiting: "dict[ConnectionSlot, None]") -> bool:
        oldest = next(iter(waiting), None)
        if oldest is None:
            return False
        self._counters.connections_evicted += 1
        oldest.scope.cancel()
        oldest.leave()
        return True


class _Address:
    """The connections of one address. `is_shared` is True if many callers have it."""

    def __init__(self, is_shared: bool) -> None:
        self.is_shared = is_shared
        self.count = 0
        self.tokens = REQUEST_BURST
        self.refilled = -inf
        self.waiting: dict[ConnectionSlot, None] = {}


class ConnectionSlot:
    """The slot of one admitted connection. The connection reports its state here; cancelling `scope` ends it."""

    def __init__(self, all_: Connections, own: _Address) -> None:
        self.scope = anyio.CancelScope()
        self._all = all_
        self._own = own
        self._left = False
        all_._count += 1
        own.count += 1
        self.wait(True)

    def wait(self, waits: bool) -> None:
        """Note whether the connection waits for a request, and so may be closed to make room."""
        for table in (self._all._waiting, self._own.waiting):
            table.pop(self, None)
            if waits and not self._left:
                table[self] = None

    def pace(self) -> float:
        """Count one request. Return the seconds to wait before it is read."""
        own, now = self._own, anyio.current_time()
        if own.is_shared:
            return 0.0
        own.tokens = min(REQUEST_BURST, own.tokens + (now - own.refilled) * REQUESTS_PER_SECOND) - 1
        own.refilled = now
        return max(0.0, -own.tokens / REQUESTS_PER_SECOND)

    def leave(self) -> None:
        """Free the slot. A second call does nothing."""
        if self._left:
            return
        self._left = True
        self.wait(False)
        self._all._count -= 1
        self._own.count -= 1


def connection_limit() -> int:
    """Return the maximum of connections, after raising the soft limit of descriptors as far as the hard limit allows.

    Half of the descriptors are left for everything else.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MAX_CONNECTIONS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, allowed // 2)
