"""The relay as a service: real sockets of both families, and its admin port."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from urllib.request import urlopen

import pytest
import trio
import trio.testing

from antiphon_common.keys import KeyRing
from antiphon_common.link import LinkKeys, Release
from antiphon_common.settings import Address, ClusterNetwork, Media, RelaySettings, SharedSettings
from antiphon_common.shell.system_calls import BATCH
from antiphon_common.shell.udp import BatchSocket
from antiphon_relay.shell.packet_loop import PacketLoop
from antiphon_relay.shell.public_sockets import PublicSocket
from antiphon_relay.shell.service import RelayPorts, serve_relay
from support.fakes.link_owner import LinkOwner, connected, exchange
from support.sim.relay_harness import Relay, binding_request

KEYS = KeyRing.generate(bytes)
SHARED = SharedSettings(
    transceiver_network=(ClusterNetwork(0, ip_network("127.0.0.0/24"), 1, 65535),), admin=Address("127.0.0.1", 0)
)


@asynccontextmanager
async def running(*hosts: str, coalesce: bool = True) -> AsyncIterator[RelayPorts]:
    settings = RelaySettings(media=tuple(Media(Address(host, 0)) for host in hosts))
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[RelayPorts]) -> None:
            await serve_relay(settings, SHARED, KEYS, coalesce=coalesce, task_status=task_status)

        yield await nursery.start(serve)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("coalesce", [True, False])
async def test_replies_leave_from_the_address_that_the_client_used(coalesce: bool) -> None:
    with BatchSocket.open(("127.0.0.1", 0)) as link:
        owner = LinkOwner(KEYS, link)
        async with running("0.0.0.0", "::", "127.0.0.2", coalesce=coalesce) as ports, trio.open_nursery() as nursery:
            nursery.start_soon(owner.run)
            assert {"127.0.0.1", "127.0.0.2", "::1"} <= {media.host for media in ports.media}
            for media in ports.media:
                with connected(media.host, media.port) as client:
                    for data in (binding_request(owner.token()), b"\x80rtp", b"\x16" * 1408):
                        assert await exchange(client, data) == data
            assert {path.ingress for path in owner.paths} == {media.ingress for media in ports.media}
            nursery.cancel_scope.cancel()


async def test_bursts_of_many_clients_lose_no_packets() -> None:
    with BatchSocket.open(("127.0.0.1", 0)) as link:
        owner = LinkOwner(KEYS, link)
        async with running("127.0.0.1") as ports, trio.open_nursery() as nursery:
            nursery.start_soon(owner.run)
            clients = [connected(ports.media[0].host, ports.media[0].port) for _ in range(20)]
            for client in clients:
                await exchange(client, binding_request(owner.token()))
            for _ in range(BATCH):
                for client in clients:
                    client.send(b"\x80rtp")
            received = 0
            with trio.fail_after(5):
                for client in clients:
                    for _ in range(BATCH):
                        await trio.lowlevel.wait_readable(client)
                        received += client.recv(2048) == b"\x80rtp"
            assert received == BATCH * len(clients)
            for client in clients:
                client.close()
            nursery.cancel_scope.cancel()


async def test_the_admin_port_exports_counters_and_health() -> None:
    with BatchSocket.open(("127.0.0.1", 0)) as link:
        owner = LinkOwner(KEYS, link)
        async with running("127.0.0.1") as ports, trio.open_nursery() as nursery:
            nursery.start_soon(owner.run)
            with connected(ports.media[0].host, ports.media[0].port) as client:
                await exchange(client, binding_request(owner.token()))
                await exchange(client, b"\x80rtp")
            assert [await fetch(ports, path) for path in ("/healthz", "/readyz")] == ["ok\n", "ok\n"]
            metrics = await samples(ports)
            assert metrics["antiphon_relay_uplink_total"] == metrics["antiphon_relay_downlink_total"] == 2
            assert metrics["antiphon_relay_confirmed_flows"] == 1
            assert metrics['antiphon_relay_socket_received_total{socket="link"}'] == 3
            for path in owner.paths:
                link.queue(LinkKeys(KEYS.link).encode(Release(path), 0), ports.link[0])
            link.flush()
            with trio.fail_after(5):
                while (await samples(ports))["antiphon_relay_confirmed_flows"]:
                    pass
            nursery.cancel_scope.cancel()


async def fetch(ports: RelayPorts, path: str) -> str:
    """Return a page of the admin port; any status but 200 raises."""

    def get() -> str:
        with urlopen(f"http://{ports.admin}{path}", timeout=20) as response:
            return str(response.read().decode())

    return await trio.to_thread.run_sync(get)


async def samples(ports: RelayPorts) -> dict[str, float]:
    """Scrape the metrics."""
    lines = (await fetch(ports, "/metrics")).splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


async def test_a_stalled_packet_loop_is_unhealthy(mock_clock: trio.testing.MockClock) -> None:
    mock_clock.rate = 50
    with BatchSocket.open(("127.0.0.1", 0)) as link, BatchSocket.open(("127.0.0.1", 0)) as public:
        core = Relay().core
        ingress = next(iter(core.ingresses.values()))
        fetch = link.receive
        link.receive = list
        loop = PacketLoop(core, [PublicSocket(ingress, public, Address(*public.address))], link)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.run)
            await trio.sleep(3)
            assert loop.healthy()
            link.queue(b"waits", link.address)
            link.flush()
            with trio.fail_after(60):
                while loop.healthy():
                    await trio.sleep(0.1)
            fetch()
            await trio.sleep(3)
            assert loop.healthy()
            nursery.cancel_scope.cancel()
