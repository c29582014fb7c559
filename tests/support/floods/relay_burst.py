"""Many flows that arrive at once at a relay just started. It learns of them by announcement, or from Redis."""

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from ipaddress import ip_network

import trio

from antiphon_common.core import Path
from antiphon_common.keys import KeyRing
from antiphon_common.link import Confirm, LinkKeys
from antiphon_common.settings import Address, ClusterNetwork, Media, RelaySettings, SharedSettings
from antiphon_common.shell.registry import connect
from antiphon_common.shell.udp import BatchSocket
from antiphon_relay.shell.service import RelayPorts, serve_relay
from support.fakes.link_owner import LinkOwner
from support.processes.redis_server import redis_server

KEYS = KeyRing.generate(os.urandom)
NETWORK = ClusterNetwork(0, ip_network("127.0.0.0/24"), 1, 65535)
INGRESS = 7
FLOWS = 2000
SPACING = 0.05
"""Seconds between two packets of a call."""


class BurstCallers:
    """Sockets of calls that used another relay before. `talk` sends from all of them."""

    def __init__(self, stack: ExitStack) -> None:
        self._sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(FLOWS)]
        for sock in self._sockets:
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        self.paths = [Path.of(*sock.getsockname(), ingress=INGRESS) for sock in self._sockets]

    async def talk(self, relay: tuple[str, int]) -> float:
        """Send from every socket until each has a response. Return the duration in seconds.

        Raises TooSlowError after 20 s.
        """
        start = trio.current_time()
        silent = self._sockets
        with trio.fail_after(20):
            while silent:
                due = trio.current_time() + SPACING
                for count, sock in enumerate(silent):
                    sock.sendto(b"\x80\x6frtp", relay)
                    if count % 100 == 0:
                        await trio.sleep(0)
                while silent and trio.current_time() < due:
                    await trio.sleep(0.002)
                    silent = [sock for sock in silent if not _has_answer(sock)]
        return trio.current_time() - start


def _has_answer(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(2048))
    except BlockingIOError:
        return False


@asynccontextmanager
async def relay(*, control: tuple[str, ...] = (), redis: str | None = None) -> AsyncIterator[RelayPorts]:
    """Run a relay just started."""
    settings = RelaySettings(media=(Media(Address("127.0.0.1", 0), ingress=INGRESS),))
    shared = SharedSettings(transceiver_network=(NETWORK,), transceiver=control, redis=redis)
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[RelayPorts]) -> None:
            await serve_relay(settings, shared, KEYS, coalesce=False, task_status=task_status)

        yield await nursery.start(serve)
        nursery.cancel_scope.cancel()


Burst = Callable[[], Awaitable[float]]
"""Starts a relay, sends a packet of every flow, and returns the seconds until the last flow has a response."""


@asynccontextmanager
async def announced_flows() -> AsyncIterator[Burst]:
    """Yield bursts at relays to which the owner of the flows announces them."""
    with ExitStack() as stack:
        owner = LinkOwner(KEYS, stack.enter_context(BatchSocket.open(("127.0.0.1", 0))))
        callers = BurstCallers(stack)
        owner.paths = dict.fromkeys(callers.paths, Address("127.0.0.1", 1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(owner.run)
            control = await nursery.start(owner.serve_control)
            yield partial(burst, callers, control=(control,))
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def flows_in_redis() -> AsyncIterator[Burst]:
    """Yield bursts at relays that look the flows up in Redis, where another relay stored them."""
    with ExitStack() as stack:
        server = stack.enter_context(redis_server())
        owner = LinkOwner(KEYS, stack.enter_context(BatchSocket.open(("127.0.0.1", 0))), announces=False)
        callers = BurstCallers(stack)
        async with trio.open_nursery() as nursery, relay(redis=server.url) as before:
            nursery.start_soon(owner.run)
            for path in callers.paths:
                owner.paths[path] = before.link[0]
                owner.link.queue(LinkKeys(KEYS.link).encode(Confirm(path), 0), before.link[0])
            owner.link.flush()
            async with connect(server.url) as client:
                with trio.fail_after(20):
                    while await client.dbsize() < FLOWS:
                        await trio.sleep(0.05)
            yield partial(burst, callers, redis=server.url)
            nursery.cancel_scope.cancel()


async def burst(callers: BurstCallers, *, control: tuple[str, ...] = (), redis: str | None = None) -> float:
    """Send a packet of every flow to a relay just started. Return the seconds until the last flow has a response."""
    async with relay(control=control, redis=redis) as ports:
        return await callers.talk((ports.media[0].host, ports.media[0].port))
