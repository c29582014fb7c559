"""The relay as a service: the worker or workers that forward, discovery of transceivers, and the admin port."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple, Protocol

import trio
from prometheus_client import CollectorRegistry

from antiphon_common.keys import KeyRing
from antiphon_common.settings import Address, RelaySettings, SharedSettings
from antiphon_common.shell.admin import serve_admin
from antiphon_common.shell.supervise import Drain
from antiphon_common.shell.udp import BatchSocket
from antiphon_relay.shell.discovery import discover
from antiphon_relay.shell.public_sockets import AdvertisedAddress, PublicSocket, open_public_sockets
from antiphon_relay.shell.supervisor import Supervisor
from antiphon_relay.shell.worker import Worker

QUIET_SECONDS = 2.0
"""A draining relay ends once no client has sent anything for this long: all use another relay now."""

log = logging.getLogger(__name__)


class RelayPorts(NamedTuple):
    """The addresses of a started relay: `media` for callers, `link` for transceivers. `admin` is None without one."""

    media: list[AdvertisedAddress]
    link: list[Address]
    admin: Address | None = None


async def serve_relay(
    settings: RelaySettings,
    shared: SharedSettings,
    keys: KeyRing,
    *,
    coalesce: bool = True,
    registry: CollectorRegistry | None = None,
    drain: Drain | None = None,
    task_status: trio.TaskStatus[RelayPorts] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run until cancelled, or until `drain` has begun and clients send nothing more. Metrics go into `registry`.

    Started once packets are forwarded, by this process or by `settings.workers` others. `coalesce` suits a process that
    only relays: under load the whole process sleeps for fractions of a millisecond.

    Raises:
        OSError: an address cannot be bound.
        PublicSocketError: the --media settings cannot be used.
    """
    registry = registry or CollectorRegistry()
    drain = drain or Drain(shared.drain)
    with ExitStack() as stack:
        relay: _Relay
        if settings.workers is None:
            relay = _InProcess(settings, shared, keys, registry, stack, coalesce=coalesce)
        else:
            relay = Supervisor(settings, settings.workers, shared, keys, registry, stack)
        async with trio.open_nursery() as nursery:
            await nursery.start(discover, shared, keys, relay.set_transceivers)
            await nursery.start(relay.run)
            admin = None
            if shared.admin is not None:

                def ready() -> bool:
                    return relay.healthy() and not drain.begun

                admin = await nursery.start(
                    partial(serve_admin, shared.admin, relay.healthy, ready, registry, names=shared.admin_name)
                )
            media = [AdvertisedAddress(ingress.id, *address) for ingress, _, address in relay.public_sockets]
            addresses = " ".join(str(address) for _, _, address in relay.public_sockets)
            log.info("relay ready", extra={"media": addresses, "link": " ".join(map(str, relay.links))})
            task_status.started(RelayPorts(media, relay.links, admin))
            await drain.wait_left(_Quiet(relay.uplink))
            nursery.cancel_scope.cancel()


class _Relay(Protocol):
    """The part of a relay that forwards: a worker in this process, or several in other processes."""

    @property
    def public_sockets(self) -> list[PublicSocket]: ...

    @property
    def links(self) -> list[Address]: ...

    def healthy(self) -> bool: ...

    def uplink(self) -> int: ...

    def set_transceivers(self, addresses: Sequence[Address]) -> None: ...

    async def run(self, *, task_status: trio.TaskStatus[None] = ...) -> None: ...


class _InProcess:
    """The single worker of a relay without worker processes."""

    def __init__(
        self,
        settings: RelaySettings,
        shared: SharedSettings,
        keys: KeyRing,
        registry: CollectorRegistry,
        stack: ExitStack,
        *,
        coalesce: bool,
    ) -> None:
        self.public_sockets = open_public_sockets(settings.media, stack)
        link = stack.enter_context(BatchSocket.open(settings.relay_link))
        self.links = [Address(*link.address)]
        worker = Worker(
            self.public_sockets,
            link,
            shared.transceiver_network,
            keys,
            registry,
            cluster=shared.cluster,
            redis=shared.redis,
            coalesce=coalesce,
        )
        self.healthy = worker.loop.healthy
        self.uplink = worker.uplink
        self.set_transceivers = worker.loop.set_transceivers
        self._worker = worker

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await self._worker.run()


class _Quiet:
    """Returns True once a count of the clients' packets has not changed for `QUIET_SECONDS`."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._last = -1
        self._since = 0.0

    def __call__(self) -> bool:
        count, now = self._count(), trio.current_time()
        if count != self._last:
            self._last, self._since = count, now
        return now - self._since >= QUIET_SECONDS
