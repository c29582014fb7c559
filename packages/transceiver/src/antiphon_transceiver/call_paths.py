"""Which call has each path, and the route to it. Relays learn of each change."""

from antiphon_common.core import Path
from antiphon_common.ownership import OwnershipTable
from antiphon_transceiver.call import Call
from antiphon_transceiver.relays import Address, Relays, Route


class CallPaths(OwnershipTable[Call]):
    """The paths of all running calls by their keys in the link header. Report what calls report of their paths.

    A call claims a path with its first authenticated check from there, and confirms it once it is validated. A claim on
    a path that another call has by now is left alone.
    """

    def __init__(self, relays: Relays) -> None:
        super().__init__()
        self._relays = relays

    def open_route(self, call: Call, path: Path, key: bytes, relay: Address, header: bytes, now: float) -> None:
        """Claim a path from which a check was authenticated, and answer by the relay that it came by."""
        route = call.routes_by_key.get(key)
        if route is None:
            route = Route(path, relay, header)
            call.add_route(route, key)
            self._relays.routes.open(route)
        else:
            route.relay, route.header = relay, header
        self.answered(key, call, now)
        if call.agent.is_validated(path):
            self.confirm_path(call, path, now)

    def confirm_path(self, call: Call, path: Path, now: float) -> None:
        """Confirm a call's claim on a validated path, here and at the relays."""
        route = call.routes.get(path)
        if route is not None and self.confirm(path.encode(), call, now):
            self._relays.announcements.confirm(path, route.relay, now)

    def hold_path(self, call: Call, path: Path, now: float) -> None:
        """Claim a path provisionally while a silent caller is checked there: its answer need not be a check."""
        key = path.encode()
        if self.lookup(key) in (call, None):  # else it is another call's by now
            self.answered(key, call, now)

    def release_path(self, call: Call, path: Path) -> None:
        """Release a path, here and at the relays. Its route stays while the call may send there."""
        self._release(call, path, path.encode())
        route = call.routes.get(path)
        if route is not None and path not in call.agent.paths:
            call.remove_route(route)
            self._relays.routes.close(route)

    def release_failed(self, call: Call) -> None:
        """Release every path of a call whose own code raised, with its routes. No part of the call is asked."""
        for key, route in list(call.routes_by_key.items()):
            self._release(call, route.path, key)
            self._relays.routes.close(route)
        call.routes.clear()
        call.routes_by_key.clear()

    def remove_call(self, call: Call) -> None:
        """Forget an ended call. It keeps its routes, for the close alert."""
        self.release_all(call)
        for route in call.routes.values():
            self._relays.routes.close(route)

    def _release(self, call: Call, path: Path, key: bytes) -> None:
        route = call.routes.get(path)
        if self.lookup(key) in (call, None):  # else it is another call's by now
            self.release(key, call)
            self._relays.announcements.release(path, None if route is None else route.relay)
