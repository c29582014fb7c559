"""The Trio shell of all backends: resolves their names, and keeps a connection to each address."""

import logging
from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import trio

from antiphon_common.settings import Address
from antiphon_transceiver.backends.call import BackendCall, BackendCounters, InboundFrame
from antiphon_transceiver.backends.connection import NoBackend, NoCapacity
from antiphon_transceiver.backends.selector import BackendSelector
from antiphon_transceiver.shell.backend_dialer import CONNECT_TIMEOUT, BackendDialer, Endpoint

log = logging.getLogger(__name__)

RESOLVE_INTERVAL = 5.0
"""Seconds between two resolutions of a backend's name."""


class BackendPool:
    """Connections to every address of every configured backend.

    `run` it, `open` calls, and `flush` it at the end of each drain. `backends` are the URLs by name; `preferred_format`
    is the format of a call's audio where the backend takes it. `received` gets each frame with `trio.current_time()`.
    """

    def __init__(self, backends: Mapping[str, str], preferred_format: str) -> None:
        self.counters = BackendCounters()
        self.received: Callable[[BackendCall, InboundFrame, float], None] = _ignore
        """Called with each frame for a call."""
        self.delivered: Callable[[], None] = self.flush
        """Called once after all frames of a message were delivered; it is to call `flush`."""
        self._selectors = {name: BackendSelector(preferred_format, self.counters) for name in backends}
        self._awaiting = trio.lowlevel.ParkingLot()
        self._endpoints = {name: Endpoint.parse(url) for name, url in backends.items()}
        self._connections: dict[str, dict[Address, BackendDialer]] = {name: {} for name in backends}
        self._unresolved: dict[str, str] = {}  # why a name does not resolve, so that it is logged once

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the connections until cancelled. Started once each backend is connected, or was tried."""
        async with trio.open_nursery() as nursery:
            looked = {name: trio.Event() for name in self._endpoints}
            for name, event in looked.items():
                nursery.start_soon(self._follow, name, nursery, event)
            nursery.start_soon(self._reassign_calls)
            with trio.move_on_after(CONNECT_TIMEOUT):
                for name, event in looked.items():
                    await event.wait()
                    for connection in list(self._connections[name].values()):
                        await connection.tried.wait()
            task_status.started()

    def connected(self, name: str) -> bool:
        """Return whether a backend has sent its hello on any of its addresses."""
        return name in self._selectors and self._selectors[name].connected

    def free_slots(self, name: str) -> int:
        """Return how many calls more a backend takes now, over all its addresses."""
        return self._selectors[name].free_slots(trio.current_time())

    def open(
        self,
        name: str,
        call_id: str,
        tenant: str,
        session: Mapping[str, Any],
        metadata: Mapping[str, str],
    ) -> BackendCall:
        """Start a call on the connection with most free slots.

        Raises `NoBackend` for a name that is not configured, `NoCapacity` without a free slot, `SessionTooLarge`.
        """
        if name not in self._selectors:
            raise NoBackend(f"no backend {name!r}; configured are {', '.join(self._selectors) or 'none'}")
        try:
            call = self._selectors[name].open(call_id, tenant, session, metadata, trio.current_time())
        except NoCapacity as error:
            raise NoCapacity(f"backend {name!r} has {error}") from None
        self.flush()
        return call

    def flush(self) -> None:
        """Wake the writers of connections with something to send. Called at the end of each drain of the server."""
        for connections in self._connections.values():
            for connection in connections.values():
                connection.flush()

    def _collected(self, now: float) -> None:
        """Deliver the frames that selectors have. A call that fails over a frame ends alone."""
        for selector in self._selectors.values():
            while (delivery := selector.poll_event()) is not None:
                call, frame = delivery
                try:
                    self.received(call, frame, now)
                except Exception:
                    log.exception("a call failed over a frame of its backend", extra={"call": call.call_id})
                    call.end("internal_error")
        self.delivered()
        if any(selector.poll_timeout() < inf for selector in self._selectors.values()):
            self._awaiting.unpark_all()

    async def _reassign_calls(self) -> None:
        """Reassign calls that await a connection."""
        while True:
            deadline = min((selector.poll_timeout() for selector in self._selectors.values()), default=inf)
            if deadline == inf:
                await self._awaiting.park()
                continue
            await trio.sleep_until(deadline)
            now = trio.current_time()
            for selector in self._selectors.values():
                selector.handle_timeout(now)
            self._collected(now)

    async def _follow(self, name: str, nursery: trio.Nursery, looked: trio.Event) -> None:
        while True:
            await self._look(name, nursery)
            looked.set()
            await trio.sleep(RESOLVE_INTERVAL)

    async def _look(self, name: str, nursery: trio.Nursery) -> None:
        """Resolve a name. Connections stay while it does not resolve."""
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
                endpoint, selector = self._endpoints[name], self._selectors[name]
                connections[address] = BackendDialer(name, endpoint, address, selector, self._collected)
                nursery.start_soon(self._keep, connections, address)

    async def _keep(self, connections: dict[Address, BackendDialer], address: Address) -> None:
        try:
            await connections[address].run()
        finally:
            del connections[address]


def _ignore(call: BackendCall, frame: InboundFrame, now: float) -> None:
    """The receiver of frames until one is set."""
