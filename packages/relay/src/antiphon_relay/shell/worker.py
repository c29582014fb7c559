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
from antiphon_relay.cache import FlowCache
from antiphon_relay.forwarder import Forwarder
from antiphon_relay.metrics import export
from antiphon_relay.shell.packet_loop import PacketLoop
from antiphon_relay.shell.public_sockets import PublicSocket


class Worker:
    """Forwards over the given sockets while it `run`s; its metrics go into `registry`.

    With `redis`, a URL, it shares its flows with the other relays of the cluster. `coalesce` is as in `PacketLoop`.
    """

    def __init__(
        self,
        public_sockets: Sequence[PublicSocket],
        link: BatchSocket,
        networks: Sequence[ClusterNetwork],
        keys: KeyRing,
        registry: CollectorRegistry,
        *,
        cluster: int = 0,
        redis: str | None = None,
        coalesce: bool = True,
    ) -> None:
        self._redis = redis
        unix_now = time.time()
        self._cache = FlowCache(cluster, keys.link, unix_now=unix_now) if redis is not None else None
        self.forwarder = Forwarder(
            [ingress for ingress, _, _ in public_sockets],
            len(encode_address(*link.address)),
            RouteTokens(keys.route),
            ClusterNetworks(networks),
            LinkKeys(keys.link),
            os.urandom,
            unix_now=unix_now,
            cache=self._cache,
        )
        self.loop = PacketLoop(self.forwarder, public_sockets, link, coalesce=coalesce)
        sockets = {str(advertised): sock.counters for _, sock, advertised in public_sockets}
        export(registry, self.forwarder, sockets | {"link": link.counters})

    def uplink(self) -> int:
        """Return how many packets of clients were forwarded so far."""
        return self.forwarder.counters.uplink

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            if self._redis is not None and self._cache is not None:
                from antiphon_relay.shell.redis_cache import keep_flow_cache  # coredis takes half a second

                nursery.start_soon(keep_flow_cache, self._redis, self._cache, self.forwarder, self.loop)
            nursery.start_soon(self.loop.run)
