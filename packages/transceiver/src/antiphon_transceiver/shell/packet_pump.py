"""The transceiver's loop: moves datagrams between the link socket and the call router, and gives it the time."""

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address
from time import time

import trio

from antiphon_common.shell.loop_pacer import LoopPacer
from antiphon_common.shell.system_calls import BATCH
from antiphon_common.shell.udp import BatchSocket
from antiphon_transceiver.call_router import CallRouter, Event
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.shell.backend_pool import BackendPool

DRAIN_BUDGET = 8
"""Batches read from the link before other tasks run."""

Network = IPv4Network | IPv6Network


class RelayFilter:
    """Which hosts may be relays: those inside `networks`. Call it with a host; it caches the answers."""

    MAX_CACHED = 4096
    """Hosts in the cache. Spoofed sources beyond that only empty it."""

    def __init__(self, networks: tuple[Network, ...]) -> None:
        self._networks = networks
        self._cache: dict[str, bool] = {}

    def __call__(self, host: str) -> bool:
        allowed = self._cache.get(host)
        if allowed is None:
            if len(self._cache) >= self.MAX_CACHED:
                self._cache.clear()
            address = ip_address(host)
            allowed = self._cache[host] = any(address in network for network in self._networks)
        return allowed


class PacketPump:
    """The loop around one call router. `run` serves until it is cancelled.

    Whoever changes the router from another task calls `flush` afterwards. `is_relay` decides from which hosts link
    datagrams are taken. Each event of the router goes to every subscribed handler.
    """

    def __init__(
        self, router: CallRouter, link: BatchSocket, pool: BackendPool, *, is_relay: Callable[[str], bool]
    ) -> None:
        self._router = router
        self._link = link
        self._pool = pool
        self._is_relay = is_relay
        self._pacer = LoopPacer(link.fileno())
        self._handlers: list[Callable[[Event], None]] = []
        pool.received = router.receive_frame
        pool.delivered = self.flush

    def subscribe(self, handler: Callable[[Event], None]) -> None:
        """Pass each event of the router to `handler` from now on."""
        self._handlers.append(handler)

    async def run(self) -> None:
        """Serve the link and the clock until cancelled; then end every call."""
        try:
            moved = False
            while True:
                await self._pacer.wait(self._router.poll_timeout(), moved=moved)
                moved = self._receive()
                self._router.handle_timeout(trio.current_time(), time())
                self.flush()
        finally:
            for call in list(self._router):
                self._router.end(call, EndReason.SHUTDOWN, "the transceiver stops", trio.current_time())
            self.flush()

    def flush(self) -> None:
        """Send what the router has queued, pass on its events, and wake the loop in time for its next deadline."""
        self._send()
        while (event := self._router.poll_event()) is not None:
            for handler in self._handlers:
                handler(event)
        self._pacer.wake_by(self._router.poll_timeout())

    def _receive(self) -> bool:
        """Read the datagrams that wait at the link; return whether there were any."""
        router = self._router
        moved = False
        for _ in range(DRAIN_BUDGET):
            batch = self._link.receive_batch()
            moved = moved or bool(batch)
            now = trio.current_time()
            for data, relay in batch:
                if self._is_relay(relay[0]):
                    router.receive_datagram(data, relay, now)
                else:
                    router.counters.foreign_host += 1
            if len(batch) < BATCH:
                break
            self._send()
        return moved

    def _send(self) -> None:
        router = self._router
        while (transmit := router.poll_transmit()) is not None:
            self._link.queue(transmit.data, transmit.relay)
        self._link.flush()
        self._pool.flush()
