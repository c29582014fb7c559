"""The packet loop: the Trio shell around the forwarder. It waits once for all sockets, then moves what there is.

Waking up costs more than forwarding. So once packets come fast, the loop sleeps for a fraction of a millisecond
between two looks, and a look finds several packets. The sleep blocks the process: `trio.sleep` cannot be shorter than a
millisecond, and a relay has nothing else to do. Where other services share the process, `gather` is to be off.
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
from antiphon_relay.shell.public_sockets import MediaSocket

TURN_SECONDS = 0.002
"""How long the loop goes on before other tasks get their turn."""
GATHER_ABOVE = 10_000.0
"""Packets a second from which on they are let gather: four for each nap."""
NAP_SECONDS = 0.0004
"""What gathering adds to a packet's delay at most."""
OVERLOADED_AFTER = 4
"""Whole batches of one socket in a row that mean more than a gathered heap: the loop is not keeping up."""
SETTLE_SECONDS = 0.04
"""How long clients' packets wait in the kernel after the first HELLO: a transceiver answers it within two of its
beats, and a packet that comes later is better than one that leads nowhere."""
WATCH_SECONDS = 1.0
"""How long packets may wait before the loop counts as stalled, at least; twice that at most."""
RATE_WINDOW = 0.02
"""Seconds over which the rate is measured."""
COMPLAINT_SECONDS = 10.0
"""Between two tracebacks of failures in the loop: each packet may cause one."""
Receiver = Callable[[float], int]

log = logging.getLogger(__name__)


class PacketLoop:
    """Moves datagrams between the public sockets and the link until it is cancelled."""

    def __init__(
        self, forwarder: Forwarder, media: Sequence[MediaSocket], link: BatchSocket, *, gather: bool = True
    ) -> None:
        self._forwarder = forwarder
        self._media = [(ingress, sock) for ingress, sock, _ in media]
        self._link = link
        self._gather = gather
        self._receivers: dict[int, Receiver] = {link.fileno(): self._receive_link}
        for ingress, sock in self._media:
            self._receivers[sock.fileno()] = self._media_receiver(ingress, sock)
        self._fast = False
        self._window_start = 0.0
        self._window_moved = 0
        self._moved = 0
        self._full_batches = 0
        self._stalled = False
        self._complain_at = 0.0
        self._timer = trio.CancelScope()
        self.asked = Wakeup()
        """Rings when there is something to look up in the flow cache."""

    async def run(self) -> None:
        with select.epoll() as waiting:
            waiting.register(self._link.fileno(), select.EPOLLIN)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_time)
                nursery.start_soon(self._watch, waiting)
                nursery.start_soon(self._open_media, waiting)
                while True:
                    await trio.lowlevel.wait_readable(waiting.fileno())
                    self._turn(waiting)

    def healthy(self) -> bool:
        """False while packets wait and nobody fetches them."""
        return not self._stalled

    def know(self, addresses: Iterable[tuple[str, int]]) -> None:
        """Send HELLO to the transceivers at these link addresses from now on."""
        self._forwarder.know(addresses)
        self._timer.cancel()

    def flush(self) -> None:
        """Send what the forwarder has left in its outboxes."""
        if self._forwarder.link_outbox:
            self._link.send(self._forwarder.link_outbox)
            self._forwarder.link_outbox.clear()
        for ingress, sock in self._media:
            if ingress.outbox:
                sock.send(ingress.outbox)
                ingress.outbox.clear()

    async def _open_media(self, waiting: select.epoll) -> None:
        """Begin to read the public sockets, after the transceivers have had time to say which flows there are."""
        if self._forwarder.known:
            await trio.sleep(SETTLE_SECONDS)
        for _, sock in self._media:
            waiting.register(sock.fileno(), select.EPOLLIN)

    async def _keep_time(self) -> None:
        """Serve the forwarder's clock."""
        while True:
            with trio.CancelScope() as self._timer:
                await trio.sleep_until(self._forwarder.poll_timeout())
            for ingress, sock in self._media:
                ingress.away = not has_address(sock.address[0])
            self._guard(self._serve_time, trio.current_time())

    def _serve_time(self, now: float) -> int:
        self._forwarder.handle_timeout(now)
        self.flush()
        return 0

    async def _watch(self, waiting: select.epoll) -> None:
        """See each second whether the loop has moved what waited the last time."""
        left_waiting, moved = False, 0
        while True:
            await trio.sleep(WATCH_SECONDS)
            self._stalled = left_waiting and moved == self._moved
            left_waiting, moved = bool(waiting.poll(0)), self._moved

    def _turn(self, waiting: select.epoll) -> None:
        now = trio.current_time()
        deadline = now + TURN_SECONDS
        while True:
            moved, more = self._look(waiting, now)
            now = trio.current_time()
            self._measure(moved, now)
            if now >= deadline:
                return
            if not more:
                if not (moved and self._fast):
                    return
                time.sleep(NAP_SECONDS)
                now = trio.current_time()

    def _look(self, waiting: select.epoll, now: float) -> tuple[int, bool]:
        """Move one batch of each socket that has something; return how many, and whether any had a whole batch."""
        counts = [self._guard(self._receivers[descriptor], now) for descriptor, _ in waiting.poll(0)]
        return sum(counts), BATCH in counts

    def _guard(self, action: Receiver, now: float) -> int:
        """Move one batch; when that raises, it is dropped with what was to be sent, and the loop goes on."""
        try:
            return action(now)
        except Exception:
            self._forwarder.counters.failed_turns += 1
            self._forwarder.link_outbox.clear()
            for ingress, _ in self._media:
                ingress.outbox.clear()
            if now >= self._complain_at:
                self._complain_at = now + COMPLAINT_SECONDS
                log.exception("packets were dropped, because forwarding them failed")
            return 0

    def _measure(self, moved: int, now: float) -> None:
        self._moved += moved
        self._window_moved += moved
        elapsed = now - self._window_start
        if elapsed >= RATE_WINDOW:
            self._fast = self._gather and self._window_moved >= GATHER_ABOVE * elapsed
            self._window_start = now
            self._window_moved = 0

    def _media_receiver(self, ingress: Ingress, sock: BatchSocket) -> Receiver:
        forwarder, receive, link = self._forwarder, sock.receive, self._link
        cache = forwarder.cache
        full_batches = 0

        def receive_media(now: float) -> int:
            nonlocal full_batches
            batch = receive()
            full_batches = full_batches + 1 if len(batch) == BATCH else 0
            forwarder.forward_uplink(ingress, batch, now, overloaded=full_batches >= OVERLOADED_AFTER)
            if forwarder.link_outbox:
                link.send(forwarder.link_outbox)
                forwarder.link_outbox.clear()
            if cache is not None and cache.asks:
                self.asked.ring()
            return len(batch)

        return receive_media

    def _receive_link(self, now: float) -> int:
        batch = self._link.receive()
        self._full_batches = self._full_batches + 1 if len(batch) == BATCH else 0
        self._forwarder.forward_downlink(batch, now, overloaded=self._full_batches >= OVERLOADED_AFTER)
        for ingress, sock in self._media:
            if ingress.outbox:
                sock.send(ingress.outbox)
                ingress.outbox.clear()
        return len(batch)
