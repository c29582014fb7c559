"""The discovery of transceivers by a relay, and its drain."""

import os
from ipaddress import ip_network

import httpx
import trio

from antiphon_common.control import LinkInfo, Load
from antiphon_common.keys import KeyRing
from antiphon_common.registry import Registered
from antiphon_common.settings import Address, ClusterNetwork, Media, RelaySettings, SharedSettings
from antiphon_common.shell.registry import keep_registered
from antiphon_common.shell.supervise import Drain
from antiphon_common.shell.udp import BatchSocket
from antiphon_relay.shell.discovery import discover
from antiphon_relay.shell.service import RelayPorts, serve_relay
from support.fakes.link_owner import LinkOwner, connected, exchange, settle
from support.processes.redis_server import redis_server
from support.sim.relay_harness import binding_request

KEYS = KeyRing.generate(os.urandom)
SETTINGS = RelaySettings(media=(Media(Address("127.0.0.1", 0)),))
NETWORK = ClusterNetwork(0, ip_network("127.0.0.0/24"), 1, 65535)


async def test_a_configured_transceiver_keeps_its_link_addresses_when_it_does_not_answer() -> None:
    known: list[list[Address]] = []
    with BatchSocket.open(("127.0.0.1", 0)) as first, BatchSocket.open(("127.0.0.1", 0)) as second:
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as servers:
                urls = [await servers.start(LinkOwner(KEYS, link).serve_control) for link in (first, second)]
                shared = SharedSettings(transceiver=(*urls, "http://127.0.0.1:1"))
                await nursery.start(discover, shared, KEYS, known.append)
                addresses = sorted(Address(*link.address) for link in (first, second))
                await settle(lambda: known and known[-1] == addresses)
                calls = len(known)
                servers.cancel_scope.cancel()
            await trio.sleep(1.5)
            assert len(known) == calls
            nursery.cancel_scope.cancel()


async def test_a_transceiver_both_configured_and_registered_receives_one_hello() -> None:
    known: list[list[Address]] = []
    with redis_server() as redis, BatchSocket.open(("127.0.0.1", 0)) as link:
        address, other = Address(*link.address), Address("127.0.0.1", 1)
        async with trio.open_nursery() as nursery:
            url = await nursery.start(LinkOwner(KEYS, link).serve_control)
            for number, registered in enumerate((address, other)):
                entry = Registered(f"http://10.0.0.{number}:8090", LinkInfo(0, (str(registered),)), Load(0, 1))
                nursery.start_soon(keep_registered, redis.url, KEYS.control, lambda entry=entry: entry)
            await nursery.start(discover, SharedSettings(transceiver=(url,), redis=redis.url), KEYS, known.append)
            await settle(lambda: known and known[-1] == sorted([address, other]))
            nursery.cancel_scope.cancel()
    assert all(len(set(addresses)) == len(addresses) for addresses in known)


async def test_hello_lists_the_shared_address_that_another_host_has() -> None:
    """The relay binds the shared address although another host has it."""
    here, elsewhere = Media(Address("127.0.0.1", 0), ingress=1), Media(Address("192.0.2.7", 0), ingress=2)
    with BatchSocket.open(("127.0.0.1", 0)) as link:
        owner = LinkOwner(KEYS, link)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(owner.run)
            url = await nursery.start(owner.serve_control)
            shared = SharedSettings(transceiver_network=(NETWORK,), transceiver=(url,))

            async def serve(*, task_status: trio.TaskStatus[RelayPorts]) -> None:
                await serve_relay(RelaySettings(media=(here, elsewhere)), shared, KEYS, task_status=task_status)

            ports = await nursery.start(serve)
            await settle(lambda: owner.away == {ports.link[0]: (2,)})
            nursery.cancel_scope.cancel()


async def test_a_draining_relay_forwards_until_its_clients_are_silent() -> None:
    drain = Drain(30)
    shared = SharedSettings(transceiver_network=(NETWORK,), transceiver=(), admin=Address("127.0.0.1", 0))
    with BatchSocket.open(("127.0.0.1", 0)) as link:
        owner = LinkOwner(KEYS, link)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(owner.run)
            ended = trio.Event()

            async def serve(*, task_status: trio.TaskStatus[RelayPorts]) -> None:
                await serve_relay(SETTINGS, shared, KEYS, drain=drain, task_status=task_status)
                ended.set()

            ports = await nursery.start(serve)
            with connected(ports.media[0].host, ports.media[0].port) as client:
                await exchange(client, binding_request(owner.token()))
                drain.leave()
                async with httpx.AsyncClient(trust_env=False) as http:
                    codes = [
                        (await http.get(f"http://{ports.admin}/{page}")).status_code for page in ("readyz", "healthz")
                    ]
                assert codes == [503, 200]
                for _ in range(12):
                    assert await exchange(client, b"\x80rtp") == b"\x80rtp"
                    await trio.sleep(0.25)
                assert not ended.is_set()
            with trio.fail_after(10):
                await ended.wait()
            nursery.cancel_scope.cancel()
