"""The packet loop: the Trio shell around the forwarder. It waits for all sockets at once, then moves their packets.

A wake-up costs more than forwarding. So once packets arrive fast, the loop sleeps for a coalescing delay, a fraction of
a millisecond, before it looks at the sockets again, and then finds several packets. The sleep blocks the process:
`trio.sleep` cannot be shorter than a millisecond. A process that serves more than a relay turns `coalesce` off.
"""

import logging
import select
import time
from collections.abc import Callable, Iterable, Sequence

import trio

from antiphon_common.shell.interfaces import has_address
from antiphon_common.shell.system_calls import BATCH
from antiphon_common.shell.udp import BatchSocket
from antiphon_common.shell.wakeup import Wakeup
from antiphon_relay.flows import Ingress
from antiphon_relay.forwarder import Forwarder
from antiphon_relay.shell.public_sockets import PublicSocket

TURN_SECONDS = 0.002
"""How long the loop goes on before other tasks run."""
COALESCE_ABOVE = 10_000.0
"""Packets a second above which they coalesce: four in each delay."""
COALESCING_DELAY = 0.0004
"""Seconds that coalescing adds to a packet's delay at most."""
OVERLOADED_AFTER = 4
"""Full batches of one socket in a row that mean overload. Packets that have coalesced fill fewer."""
ANNOUNCE_SECONDS = 0.04
"""How long clients' packets wait in the kernel after the first HELLO. A transceiver announces its flows within two of
its ticks, and a packet that is late is better than one whose flow is unknown."""
STALL_SECONDS = 1.0
"""Packets that wait this long mean that the loop is stalled; it is noticed after twice this time at most."""
RATE_WINDOW = 0.02
"""Seconds over which the packet rate is measured."""
LOG_SECONDS = 10.0
"""Between two tracebacks of failures in the loop: each packet may cause one."""
Receiver = Callable[[float], int]

log = logging.getLogger(__name__)


class PacketLoop:
    """Moves datagrams between the public sockets and the link socket while it `run`s."""

    def __init__(
        self,
        forwarder: Forwarder,
        public_sockets: Sequence[PublicSocket],
        link: BatchSocket,
        *,
        coalesce: bool = True,
    ) -> None:
        self._forwarder = forwarder
        self._public = [(ingress, sock) for ingress, sock, _ in public_sockets]
        self._link = link
        self._coalesce = coalesce
        self._receivers: dict[int, Receiver] = {link.fileno(): self._receive_link}
        for ingress, sock in self._public:
            self._receivers[sock.fileno()] = self._public_receiver(ingress, sock)
        self._fast = False
        self._window_start = 0.0
        self._window_moved = 0
        self._moved = 0
        self._full_batches = 0
        self._stalled = False
        self._log_at = 0.0
        self._timer = trio.CancelScope()
        self.lookup_due = Wakeup()
        """Rings when there is a path to look up in the flow cache."""

    async def run(self) -> None:
        """Run until cancelled."""
        with select.epoll() as epoll:
            epoll.register(self._link.fileno(), select.EPOLLIN)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_timer)
                nursery.start_soon(self._watch_for_stalls, epoll)
                nursery.start_soon(self._open_public, epoll)
                while True:
                    await trio.lowlevel.wait_readable(epoll.fileno())
                    self._turn(epoll)

    def healthy(self) -> bool:
        """False while packets wait and the loop does not read them."""
        return not self._stalled

    def set_transceivers(self, addresses: Iterable[tuple[str, int]]) -> None:
        """Send HELLO to the transceivers at these link addresses from now on."""
        self._forwarder.set_transceivers(addresses)
        self._timer.cancel()

    def flush(self) -> None:
        """Send the datagrams in the forwarder's outboxes."""
        if self._forwarder.link_outbox:
            self._link.send(self._forwarder.link_outbox)
            self._forwarder.link_outbox.clear()
        for ingress, sock in self._public:
            if ingress.outbox:
                sock.send(ingress.outbox)
                ingress.outbox.clear()

    async def _open_public(self, epoll: select.epoll) -> None:
        """Read the public sockets once the transceivers have had time to announce their flows."""
        if self._forwarder.transceivers:
            await trio.sleep(ANNOUNCE_SECONDS)
        for _, sock in self._public:
            epoll.register(sock.fileno(), select.EPOLLIN)

    async def _run_timer(self) -> None:
        """Call the forwarder's `handle_timeout` when it is due."""
        while True:
            with trio.CancelScope() as self._timer:
                await trio.sleep_until(self._forwarder.poll_timeout())
            for ingress, sock in self._public:
                ingress.away = not has_address(sock.address[0])
            self._guard(self._handle_timeout, trio.current_time())

    def _handle_timeout(self, now: float) -> int:
        self._forwarder.handle_timeout(now, time.time())
        self.flush()
        return 0

    async def _watch_for_stalls(self, epoll: select.epoll) -> None:
        """Check regularly whether the loop has moved any of the packets that waited at the last check."""
        were_waiting, moved = False, 0
        while True:
            await trio.sleep(STALL_SECONDS)
            self._stalled = were_waiting and moved == self._moved
            were_waiting, moved = bool(epoll.poll(0)), self._moved

    def _turn(self, epoll: select.epoll) -> None:
        now = trio.current_time()
        deadline = now + TURN_SECONDS
        while True:
            moved, more = self._move_batches(epoll, now)
            now = trio.current_time()
            self._measure(moved, now)
            if now >= deadline:
                return
            if not more:
                if not (moved and self._fast):
                    return
                time.sleep(COALESCING_DELAY)
                now = trio.current_time()

    def _move_batches(self, epoll: select.epoll, now: float) -> tuple[int, bool]:
        """Move one batch of each readable socket; return how many datagrams, and whether any batch was full."""
        counts = [self._guard(self._receivers[descriptor], now) for descriptor, _ in epoll.poll(0)]
        return sum(counts), BATCH in counts

    def _guard(self, action: Receiver, now: float) -> int:
        """Call `action`. If it raises, its batch and all outboxes are dropped, and the loop goes on."""
        try:
            return action(now)
        except Exception:
            self._forwarder.counters.failed_turns += 1
            self._forwarder.link_outbox.clear()
            for ingress, _ in self._public:
                ingress.outbox.clear()
            if now >= self._log_at:
                self._log_at = now + LOG_SECONDS
                log.exception("packets were dropped, because forwarding them failed")
            return 0

    def _measure(self, moved: int, now: float) -> None:
        self._moved += moved
        self._window_moved += moved
        elapsed = now - self._window_start
        if elapsed >= RATE_WINDOW:
            self._fast = self._coalesce and self._window_moved >= COALESCE_ABOVE * elapsed
            self._window_start = now
            self._window_moved = 0

    def _public_receiver(self, ingress: Ingress, sock: BatchSocket) -> Receiver:
        forwarder, receive, link = self._forwarder, sock.receive, self._link
        cache = forwarder.cache
        full_batches = 0

        def receive_public(now: float) -> int:
            nonlocal full_batches
            batch = receive()
            full_batches = full_batches + 1 if len(batch) == BATCH else 0
            forwarder.forward_uplink(ingress, batch, now, overloaded=full_batches >= OVERLOADED_AFTER)
            if forwarder.link_outbox:
                link.send(forwarder.link_outbox)
                forwarder.link_outbox.clear()
            if cache is not None and cache.has_lookups:
                self.lookup_due.ring()
            return len(batch)

        return receive_public

    def _receive_link(self, now: float) -> int:
        batch = self._link.receive()
        self._full_batches = self._full_batches + 1 if len(batch) == BATCH else 0
        self._forwarder.forward_downlink(batch, now, overloaded=self._full_batches >= OVERLOADED_AFTER)
        for ingress, sock in self._public:
            if ingress.outbox:
                sock.send(ingress.outbox)
                ingress.outbox.clear()
        return len(batch)
