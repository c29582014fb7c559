"""Bounds the connections of an HTTP server: how many there are, in all and of one address, and how often each address
asks. Runs under Trio or asyncio."""

import resource
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

import anyio

from antiphon_common.address_groups import address_group, is_loopback_group

MAX_CONNECTIONS = 2000
"""Connections at once, where the process may have that many descriptors twice. Each costs some 50 KiB."""
ADDRESS_SHARE = 4
"""One address may have this part of all connections. Loopback addresses may have all: a proxy's are of everybody."""
REQUESTS_PER_SECOND = 100.0
REQUEST_BURST = 200.0
"""Connections and requests of one address that are served at once, and how many more a second. Each costs up to a
millisecond, which media in the same process would wait for; the others of an address wait in its connections."""
MAX_REMEMBERED = 4096
"""Addresses without a connection whose latest requests still count."""


class HttpCounters:
    """What happened to connections, for the metrics."""

    def __init__(self) -> None:
        self.connections = 0
        self.connections_refused = 0
        """No room, and no connection that could have made some."""
        self.connections_evicted = 0
        """Closed while they waited for a request, because another one needed the room."""
        self.handshakes_failed = 0


class Connections:
    """The connections of one server. When there is no room, the one that has waited longest for a request goes: of the
    same address if that one has too many, else of all. Those with a request in progress stay."""

    def __init__(
        self,
        counters: HttpCounters,
        limit: int | None = None,
        is_shared: Callable[[str], bool] = lambda host: False,
    ) -> None:
        """`limit` is how many there may be; without it, as many as MAX_CONNECTIONS and the descriptors allow. An
        address that many callers share, as loopback is, may have all, and may ask as often as it likes."""
        self._is_shared = is_shared
        self._counters = counters
        self._limit = connection_limit() if limit is None else limit
        self._share = max(1, self._limit // ADDRESS_SHARE)
        self._count = 0
        self._waiting: dict[Connection, None] = {}
        self._addresses: dict[str, _Address] = {}
        self._remembered: OrderedDict[str, _Address] = OrderedDict()

    @contextmanager
    def admit(self, host: str) -> Iterator["Connection | None"]:
        """Hold a place for a connection from a numeric address; None when there is no room."""
        group = address_group(host)
        is_shared = is_loopback_group(group) or self._is_shared(host)
        own = self._addresses.get(group) or self._remembered.pop(group, None) or _Address(is_shared)
        if not self._make_room(own):
            self._counters.connections_refused += 1
            yield None
            return
        self._addresses[group] = own
        self._counters.connections += 1
        place = Connection(self, own)
        try:
            with place.scope:
                yield place
        finally:
            place.leave()
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

    def _evict(self, waiting: "dict[Connection, None]") -> bool:
        oldest = next(iter(waiting), None)
        if oldest is None:
            return False
        self._counters.connections_evicted += 1
        oldest.scope.cancel()
        oldest.leave()
        return True


class _Address:
    """The connections of one address; `is_shared` where many callers have it."""

    def __init__(self, is_shared: bool) -> None:
        self.is_shared = is_shared
        self.count = 0
        self.tokens = REQUEST_BURST
        self.refilled = -inf
        self.waiting: dict[Connection, None] = {}


class Connection:
    """A place among the connections. Cancelling its `scope` ends it."""

    def __init__(self, all_: Connections, own: _Address) -> None:
        self.scope = anyio.CancelScope()
        self._all = all_
        self._own = own
        self._left = False
        all_._count += 1
        own.count += 1
        self.wait(True)

    def wait(self, waits: bool) -> None:
        """Note that the connection waits for a request now, and may be closed for another one, or that it does not."""
        for table in (self._all._waiting, self._own.waiting):
            table.pop(self, None)
            if waits and not self._left:
                table[self] = None

    def pace(self) -> float:
        """Count one request, and return the seconds that the client has to wait until it is read."""
        own, now = self._own, anyio.current_time()
        if own.is_shared:
            return 0.0
        own.tokens = min(REQUEST_BURST, own.tokens + (now - own.refilled) * REQUESTS_PER_SECOND) - 1
        own.refilled = now
        return max(0.0, -own.tokens / REQUESTS_PER_SECOND)

    def leave(self) -> None:
        """Give the place up; again without effect."""
        if self._left:
            return
        self._left = True
        self.wait(False)
        self._all._count -= 1
        self._own.count -= 1


def connection_limit() -> int:
    """Return how many connections a server may have, and raise this process's soft limit of descriptors for them, as
    far as its hard limit allows. Half of the descriptors stay for everything else."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MAX_CONNECTIONS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, allowed // 2)
