"""The Trio shell of all backends: where each name leads, and which connection takes the next call."""

import logging
from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import trio

from antiphon_common.settings import Address
from antiphon_transceiver.backends.call import BackendCall, LinkCounters, Sink
from antiphon_transceiver.backends.connection import NoBackend, NoCapacity
from antiphon_transceiver.backends.selector import BackendGroup
from antiphon_transceiver.shell.backend_dialer import CONNECT_TIMEOUT, Connection, Endpoint, deliver

log = logging.getLogger(__name__)

RESOLVE_INTERVAL = 5.0
"""Seconds between two looks at where a backend's name leads."""


class BackendPool:
    """Connections to every address of every configured backend.

    `backends` are the URLs by name; `preferred_format` is what a call's audio is in where the backend takes it.
    Sinks are called with `trio.current_time()`.
    """

    def __init__(self, backends: Mapping[str, str], preferred_format: str) -> None:
        self.counters = LinkCounters()
        self.delivered: Callable[[], None] = self.flush
        """Called once after all frames of a message have been handed to their sinks; it is to call `flush`."""
        self._groups = {name: BackendGroup(preferred_format, self.counters) for name in backends}
        self._homeless = trio.lowlevel.ParkingLot()
        self._endpoints = {name: Endpoint.parse(url) for name, url in backends.items()}
        self._connections: dict[str, dict[Address, Connection]] = {name: {} for name in backends}
        self._unresolved: dict[str, str] = {}  # why a name leads nowhere, so that it is logged once

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the connections until cancelled. Started once each backend is connected, or was tried."""
        async with trio.open_nursery() as nursery:
            looked = {name: trio.Event() for name in self._endpoints}
            for name, event in looked.items():
                nursery.start_soon(self._follow, name, nursery, event)
            nursery.start_soon(self._house)
            with trio.move_on_after(CONNECT_TIMEOUT):
                for name, event in looked.items():
                    await event.wait()
                    for connection in list(self._connections[name].values()):
                        await connection.tried.wait()
            task_status.started()

    def connected(self, name: str) -> bool:
        """Tell whether a backend has said hello on any of its addresses."""
        return name in self._groups and self._groups[name].connected

    def free_slots(self, name: str) -> int:
        """Return how many calls more a backend takes now, over all its addresses."""
        return self._groups[name].free_slots(trio.current_time())

    def open(
        self,
        name: str,
        call_id: str,
        tenant: str,
        session: Mapping[str, Any],
        metadata: Mapping[str, str],
        sink: Sink,
    ) -> BackendCall:
        """Start a call on the connection with most free slots.

        Raises `NoBackend` for a name that is not configured, `NoCapacity` without a free slot, `SessionTooLarge`.
        """
        if name not in self._groups:
            raise NoBackend(f"no backend {name!r}; configured are {', '.join(self._groups) or 'none'}")
        try:
            call = self._groups[name].open(call_id, tenant, session, metadata, sink, trio.current_time())
        except NoCapacity as error:
            raise NoCapacity(f"backend {name!r} has {error}") from None
        self.flush()
        return call

    def flush(self) -> None:
        """Wake the writers of connections with something to send. Called at the end of each drain of the server."""
        for connections in self._connections.values():
            for connection in connections.values():
                connection.flush()

    def _delivered(self) -> None:
        self.delivered()
        if any(group.poll_timeout() < inf for group in self._groups.values()):
            self._homeless.unpark_all()

    async def _house(self) -> None:
        """Keep looking for connections for calls that lost theirs."""
        while True:
            deadline = min((group.poll_timeout() for group in self._groups.values()), default=inf)
            if deadline == inf:
                await self._homeless.park()
                continue
            await trio.sleep_until(deadline)
            now = trio.current_time()
            for group in self._groups.values():
                group.handle_timeout(now)
                deliver(group, group.poll_event, now)
            self.delivered()

    async def _follow(self, name: str, nursery: trio.Nursery, looked: trio.Event) -> None:
        while True:
            await self._look(name, nursery)
            looked.set()
            await trio.sleep(RESOLVE_INTERVAL)

    async def _look(self, name: str, nursery: trio.Nursery) -> None:
        """Find out where a name leads. While nobody can tell, what is connected stays."""
        try:
            addresses = await self._endpoints[name].resolve()
        except OSError as error:
            if self._unresolved.get(name) != str(error):
                self._unresolved[name] = str(error)
                log.warning("the name of a backend leads nowhere", extra={"backend": name, "reason": str(error)})
        else:
            self._unresolved.pop(name, None)
            self._adopt(name, addresses, nursery)

    def _adopt(self, name: str, addresses: list[Address], nursery: trio.Nursery) -> None:
        connections = self._connections[name]
        for address, connection in connections.items():
            connection.wanted = address in addresses
        for address in addresses:
            if address not in connections:
                endpoint, group = self._endpoints[name], self._groups[name]
                connections[address] = Connection(name, endpoint, address, group, self._delivered)
                nursery.start_soon(self._keep, connections, address)

    async def _keep(self, connections: dict[Address, Connection], address: Address) -> None:
        try:
            await connections[address].run()
        finally:
            del connections[address]
