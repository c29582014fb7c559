"""A relay worker: the forwarder and the packet loop, over sockets that are open already."""

import os
import time
from collections.abc import Sequence

import trio
from prometheus_client import CollectorRegistry

from antiphon_common.keys import KeyRing
from antiphon_common.link import LinkKeys
from antiphon_common.routing import ClusterNetworks, RouteTokens
from antiphon_common.settings import ClusterNetwork
from antiphon_common.shell.udp import BatchSocket
from antiphon_common.sockaddr import encode_address
from antiphon_relay.forwarder import Forwarder
from antiphon_relay.media import MediaSocket
from antiphon_relay.metrics import export
from antiphon_relay.packets import PacketLoop


class Worker:
    """Forwards over these sockets while `run`s; its metrics go into `registry`. `gather` as in `PacketLoop`."""

    def __init__(
        self,
        media: Sequence[MediaSocket],
        link: BatchSocket,
        networks: Sequence[ClusterNetwork],
        keys: KeyRing,
        registry: CollectorRegistry,
        *,
        gather: bool = True,
    ) -> None:
        self.forwarder = Forwarder(
            [ingress for ingress, _, _ in media],
            len(encode_address(*link.address)),
            RouteTokens(keys.route),
            ClusterNetworks(networks),
            LinkKeys(keys.link),
            os.urandom,
            unix_offset=time.time() - trio.current_time(),
        )
        self.loop = PacketLoop(self.forwarder, media, link, gather=gather)
        sockets = {str(advertised): sock for _, sock, advertised in media}
        export(registry, self.forwarder, sockets | {"link": link})

    def uplink(self) -> int:
        """How many packets of clients were forwarded so far."""
        return self.forwarder.counters.uplink

    async def run(self) -> None:
        await self.loop.run()
