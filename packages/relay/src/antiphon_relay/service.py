"""The relay as a service: opens its sockets, then runs the packet loop beside the admin port."""

import logging
import os
import time
from contextlib import ExitStack
from typing import NamedTuple

import trio
from prometheus_client import CollectorRegistry

from antiphon_common.keys import KeyRing
from antiphon_common.link import LinkKeys
from antiphon_common.routing import ClusterNetworks, RouteTokens
from antiphon_common.settings import Address, RelaySettings, SharedSettings
from antiphon_common.shell.admin import serve_admin
from antiphon_common.shell.udp import BatchSocket
from antiphon_common.sockaddr import encode_address
from antiphon_relay.forwarder import Forwarder
from antiphon_relay.media import MediaSocket, open_media
from antiphon_relay.metrics import export
from antiphon_relay.packets import PacketLoop

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
    task_status: trio.TaskStatus[RelayPorts] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run until cancelled; started once packets are forwarded. `gather` is for a process that only relays: under load
    it sleeps for fractions of a millisecond with everything in it. Metrics go into `registry`."""
    with ExitStack() as stack:
        media = open_media(settings.media, stack)
        link = stack.enter_context(BatchSocket.open(settings.relay_link))
        link_address = Address(*link.address)
        forwarder = _make_forwarder(media, link_address, shared, keys)
        loop = PacketLoop(forwarder, media, link, gather=gather)
        registry = registry or CollectorRegistry()
        sockets = {str(advertised): sock for _, sock, advertised in media}
        export(registry, forwarder, sockets | {"link": link})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.run)
            admin = None
            if shared.admin is not None:
                admin = await nursery.start(serve_admin, shared.admin, loop.healthy, loop.healthy, registry)
            log.info("relay ready", extra={"media": " ".join(sockets), "link": str(link_address)})
            advertised = [AdvertisedMedia(ingress.id, *address) for ingress, _, address in media]
            task_status.started(RelayPorts(advertised, [link_address], admin))


def _make_forwarder(media: list[MediaSocket], link: Address, shared: SharedSettings, keys: KeyRing) -> Forwarder:
    return Forwarder(
        [ingress for ingress, _, _ in media],
        len(encode_address(*link)),
        RouteTokens(keys.route),
        ClusterNetworks(shared.transceiver_network),
        LinkKeys(keys.link),
        os.urandom,
        unix_offset=time.time() - trio.current_time(),
    )
