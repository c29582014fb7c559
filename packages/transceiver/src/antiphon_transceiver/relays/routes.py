"""By which relay each path is reached. When a relay falls silent, its paths go by another of the same ingress."""

from collections.abc import Iterable

from antiphon_common.core import Path
from antiphon_transceiver.relays.table import Address, RelayTable


class Route:
    """How to reach a path: the relay by which the latest authenticated datagram came from there, and the link header
    for it."""

    __slots__ = ("header", "path", "relay")

    def __init__(self, path: Path, relay: Address, header: bytes) -> None:
        self.path = path
        self.relay = relay
        self.header = header


class RouteTable:
    """The routes of all running calls. A call opens a route for each authenticated path, and closes it in the end.

    It is bounded by the paths of the calls.
    """

    def __init__(self) -> None:
        self._by_ingress: dict[int, dict[Route, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_ingress.values()))

    def open(self, route: Route) -> None:
        """Keep a route up to date from now on."""
        self._by_ingress.setdefault(route.path.ingress, {})[route] = None

    def close(self, route: Route) -> None:
        """Forget a route; harmless when it is not open."""
        ingress = route.path.ingress
        routes = self._by_ingress.get(ingress, {})
        if route in routes:
            del routes[route]
            if not routes:
                del self._by_ingress[ingress]

    def leave_relay(self, relay: Address, table: RelayTable) -> int:
        """Lead the routes of a relay around it, where another relay can; return how many were changed."""
        return _reroute((r for routes in self._by_ingress.values() for r in routes if r.relay == relay), table)

    def check_ingress(self, ingress: int, table: RelayTable) -> int:
        """Lead routes away from the relays that do not serve an ingress now; return how many were changed."""
        return _reroute(self._by_ingress.get(ingress, {}), table)


def _reroute(routes: Iterable[Route], table: RelayTable) -> int:
    changed = 0
    stand_ins: dict[tuple[Address, int], Address | None] = {}
    for route in routes:
        lost, ingress = route.relay, route.path.ingress
        if table.serves(lost, ingress):
            continue
        if (lost, ingress) not in stand_ins:
            stand_ins[lost, ingress] = table.stand_in(lost, ingress)
        stand_in = stand_ins[lost, ingress]
        if stand_in is not None:
            route.relay = stand_in
            changed += 1
    return changed
