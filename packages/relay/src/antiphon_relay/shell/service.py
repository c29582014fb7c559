"""The relay as a service: what forwards packets, beside discovery and the admin port."""

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
from antiphon_relay.shell.public_sockets import MediaSocket, open_media
from antiphon_relay.shell.supervisor import Supervisor
from antiphon_relay.shell.worker import Worker

QUIET_SECONDS = 2.0
"""A relay that is to leave may, once no client has sent anything for so long: all go by another one now."""

log = logging.getLogger(__name__)


class AdvertisedMedia(NamedTuple):
    """What callers are told of one public address, and its ingress id."""

    ingress: int
    host: str
    port: int


class RelayPorts(NamedTuple):
    """Where a started relay is reached by callers and by transceivers; `admin` is None where there is none."""

    media: list[AdvertisedMedia]
    link: list[Address]
    admin: Address | None = None


async def serve_relay(
    settings: RelaySettings,
    shared: SharedSettings,
    keys: KeyRing,
    *,
    gather: bool = True,
    registry: CollectorRegistry | None = None,
    drain: Drain | None = None,
    task_status: trio.TaskStatus[RelayPorts] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run until cancelled, or until `drain` is to leave and clients have fallen silent; started once packets are
    forwarded: by this process, or by `settings.workers` others. `gather` is for a process that only relays: under load
    it sleeps for fractions of a millisecond with everything in it. Metrics go into `registry`."""
    registry = registry or CollectorRegistry()
    drain = drain or Drain(shared.drain)
    with ExitStack() as stack:
        relay: Relaying
        if settings.workers is None:
            relay = _InProcess(settings, shared, keys, registry, stack, gather=gather)
        else:
            relay = Supervisor(settings, settings.workers, shared, keys, registry, stack)
        async with trio.open_nursery() as nursery:
            await nursery.start(discover, shared, keys, relay.know)
            await nursery.start(relay.run)
            admin = None
            if shared.admin is not None:

                def ready() -> bool:
                    return relay.healthy() and not drain.begun

                admin = await nursery.start(
                    partial(serve_admin, shared.admin, relay.healthy, ready, registry, names=shared.admin_name)
                )
            advertised = [AdvertisedMedia(ingress.id, *address) for ingress, _, address in relay.media]
            told = {"media": " ".join(str(address) for _, _, address in relay.media)}
            log.info("relay ready", extra=told | {"link": " ".join(map(str, relay.links))})
            task_status.started(RelayPorts(advertised, relay.links, admin))
            await drain.wait_left(_Quiet(relay.uplink))
            nursery.cancel_scope.cancel()


class Relaying(Protocol):
    """What forwards: a worker in this process, or several in others."""

    @property
    def media(self) -> list[MediaSocket]: ...

    @property
    def links(self) -> list[Address]: ...

    def healthy(self) -> bool: ...

    def uplink(self) -> int: ...

    def know(self, addresses: Sequence[Address]) -> None: ...

    async def run(self, *, task_status: trio.TaskStatus[None] = ...) -> None: ...


class _InProcess:
    """The one worker of a relay without others."""

    def __init__(
        self,
        settings: RelaySettings,
        shared: SharedSettings,
        keys: KeyRing,
        registry: CollectorRegistry,
        stack: ExitStack,
        *,
        gather: bool,
    ) -> None:
        self.media = open_media(settings.media, stack)
        link = stack.enter_context(BatchSocket.open(settings.relay_link))
        self.links = [Address(*link.address)]
        worker = Worker(
            self.media,
            link,
            shared.transceiver_network,
            keys,
            registry,
            cluster=shared.cluster,
            redis=shared.redis,
            gather=gather,
        )
        self.healthy = worker.loop.healthy
        self.uplink = worker.uplink
        self.know = worker.loop.know
        self._worker = worker

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await self._worker.run()


class _Quiet:
    """Whether clients have sent nothing for `QUIET_SECONDS`, by a count of their packets."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._last = -1
        self._since = 0.0

    def __call__(self) -> bool:
        count, now = self._count(), trio.current_time()
        if count != self._last:
            self._last, self._since = count, now
        return now - self._since >= QUIET_SECONDS
