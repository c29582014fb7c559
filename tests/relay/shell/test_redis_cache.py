"""Relays that share flows over a real Redis with all kinds of failures."""

import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from ipaddress import ip_network
from typing import NamedTuple

import pytest
import trio
from prometheus_client import CollectorRegistry

from antiphon_common.core import Path
from antiphon_common.keys import KeyRing
from antiphon_common.settings import Address, ClusterNetwork, Media, RelaySettings, SharedSettings
from antiphon_common.shell.registry import connect
from antiphon_common.shell.udp import BatchSocket
from antiphon_common.sockaddr import encode_address
from antiphon_relay import forwarder
from antiphon_relay.cache import KEPT_SECONDS, FlowCache
from antiphon_relay.shell.service import RelayPorts, serve_relay
from support.fakes.link_owner import LinkOwner, settle
from support.processes.redis_server import Garbler, RedisServer, garbling, redis_server
from support.sim.relay_harness import binding_request

KEYS = KeyRing.generate(os.urandom)
NETWORK = ClusterNetwork(0, ip_network("127.0.0.0/24"), 1, 65535)
NETWORK6 = ClusterNetwork(1, ip_network("::/96"), 1, 65535)
INGRESS = 7
"""The ingress id of all relays here: any of them may get any packet."""
RTP = b"\x80\x6frtp"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


class RunningRelay:
    """A relay without configured transceivers."""

    def __init__(self, ports: RelayPorts, registry: CollectorRegistry) -> None:
        self.address = ports.media[0].host, ports.media[0].port
        self._registry = registry

    def figure(self, name: str) -> float:
        value = self._registry.get_sample_value(f"antiphon_relay_{name}")
        assert value is not None, name
        return value


class CacheClient:
    """Talks to any relay from one address."""

    def __init__(self, stack: ExitStack) -> None:
        self.socket = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)

    async def asks(self, relay: RunningRelay, data: bytes, *, seconds: float = 5.0) -> bool:
        """Send a datagram; return True if a relay returns it."""
        self.socket.sendto(data, relay.address)
        with trio.move_on_after(seconds):
            while True:
                await trio.lowlevel.wait_readable(self.socket)
                if self.socket.recvfrom(2048) == (data, relay.address):
                    return True
        return False


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


class CacheFleet(NamedTuple):
    """A transceiver, its running relays, and `start` for another relay."""

    owner: LinkOwner
    relays: list[RunningRelay]
    start: Callable[[], Awaitable[RunningRelay]]


@asynccontextmanager
async def running(redis: RedisServer | Garbler, count: int) -> AsyncIterator[CacheFleet]:
    settings = RelaySettings(media=(Media(Address("127.0.0.1", 0), ingress=INGRESS),))
    shared = SharedSettings(transceiver_network=(NETWORK, NETWORK6), transceiver=(), redis=redis.url)
    with BatchSocket.open(("127.0.0.1", 0)) as link:
        owner = LinkOwner(KEYS, link)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(owner.run)

            async def start() -> RunningRelay:
                registry = CollectorRegistry()

                async def serve(*, task_status: trio.TaskStatus[RelayPorts]) -> None:
                    await serve_relay(
                        settings, shared, KEYS, coalesce=False, registry=registry, task_status=task_status
                    )

                return RunningRelay(await nursery.start(serve), registry)

            yield CacheFleet(owner, [await start() for _ in range(count)], start)
            nursery.cancel_scope.cancel()


async def ttls(redis: RedisServer) -> list[int]:
    """Return the remaining lifetime of each flow in Redis, in seconds."""
    async with connect(redis.url) as client:
        return [await client.ttl(name) for name in await client.keys("antiphon:0:flow:*")]


async def written(redis: RedisServer, count: int) -> None:
    """Wait until Redis has a number of flows."""
    async with connect(redis.url) as client:
        with trio.fail_after(10):
            while await client.dbsize() < count:
                await trio.sleep(0.02)


async def check_on(clients: list[CacheClient], relay: RunningRelay, request: bytes) -> None:
    """Send checks, as clients do during a call."""
    while True:
        for client in clients:
            assert await client.asks(relay, request)
        await trio.sleep(0.1)


async def test_a_relay_forwards_packets_of_a_call_that_was_set_up_by_another_relay(
    redis: RedisServer, stack: ExitStack
) -> None:
    async with running(redis, 3) as (owner, (first, *others), _):
        client = CacheClient(stack)
        assert await client.asks(first, binding_request(owner.token()))
        await written(redis, 1)
        for relay in others:
            assert await client.asks(relay, RTP)
            assert relay.figure("cache_found_total") == 1


async def test_redis_keeps_a_flow_for_a_minute(redis: RedisServer, stack: ExitStack) -> None:
    async with running(redis, 1) as (owner, (relay,), _):
        for _ in range(3):
            assert await CacheClient(stack).asks(relay, binding_request(owner.token()))
        await written(redis, 3)
        assert all(KEPT_SECONDS - 10 <= seconds <= KEPT_SECONDS for seconds in await ttls(redis))


async def test_a_cached_owner_of_another_address_family_than_the_link_is_refused(
    redis: RedisServer, stack: ExitStack
) -> None:
    """A relay with an IPv6 link wrote the value. This relay has an IPv4 link and continues."""
    async with running(redis, 1) as (owner, (relay,), _):
        unknown, client = CacheClient(stack), CacheClient(stack)
        path = Path.of(*unknown.socket.getsockname(), ingress=INGRESS).encode()
        cache = FlowCache(0, KEYS.link, unix_now=time.time())
        cache.store(path, encode_address("::1", 7000))
        ((name, value),) = cache.take_writes()
        async with connect(redis.url) as commands:
            await commands.set(name, value)
        assert not await unknown.asks(relay, RTP, seconds=0.3)
        assert relay.figure("cache_found_total") == 1
        assert await client.asks(relay, binding_request(owner.token()))
        assert await client.asks(relay, RTP)
        assert relay.figure("flows") == 1
        assert relay.figure("failed_turns_total") == 0


async def test_calls_continue_while_redis_stalls(redis: RedisServer, stack: ExitStack) -> None:
    async with running(redis, 2) as (owner, (first, second), _):
        client, late = CacheClient(stack), CacheClient(stack)
        assert await client.asks(first, binding_request(owner.token()))
        await written(redis, 1)
        redis.stall()
        assert await late.asks(first, binding_request(owner.token()))
        for _ in range(20):
            assert await client.asks(first, RTP)
            assert not await late.asks(second, RTP, seconds=0.05)
        assert second.figure("cache_failures_total") >= 1
        assert second.figure("cache_refused_total") >= 1
        redis.resume()
        with trio.fail_after(20):
            while not await client.asks(second, RTP, seconds=0.2):
                pass


async def test_calls_continue_while_redis_is_down_and_after_it_returns_empty(
    redis: RedisServer, stack: ExitStack
) -> None:
    async with running(redis, 2) as (owner, (first, second), _):
        client = CacheClient(stack)
        assert await client.asks(first, binding_request(owner.token()))
        await written(redis, 1)
        redis.kill()
        meanwhile = CacheClient(stack)
        assert await meanwhile.asks(first, binding_request(owner.token()))
        for _ in range(20):
            assert await client.asks(first, RTP)
            assert not await client.asks(second, RTP, seconds=0.05)
        redis.start()
        fresh = CacheClient(stack)
        assert await fresh.asks(first, binding_request(owner.token()))
        await written(redis, 2)
        for late in (meanwhile, fresh):
            with trio.fail_after(20):
                while not await late.asks(second, RTP, seconds=0.2):
                    pass


@pytest.mark.parametrize(
    "answer",
    [b"$xx\r\n", b"-ERR \xff\r\n", b"\r\n", b"+OK\r\n", b"*0\r\n", b"*1\r\n" * 5000 + b":1\r\n", b"*1\r\n:1\r\n"],
    ids=["length", "text", "empty", "kind", "count", "depth", "type"],
)
async def test_calls_continue_when_redis_sends_an_invalid_answer(
    redis: RedisServer, stack: ExitStack, answer: bytes
) -> None:
    async with garbling(redis, b"MGET", answer) as garbler, running(garbler, 2) as (owner, (first, second), _):
        client, own = CacheClient(stack), CacheClient(stack)
        assert await client.asks(first, binding_request(owner.token()))
        assert await own.asks(second, binding_request(owner.token()))
        await written(redis, 2)
        assert not await client.asks(second, RTP, seconds=0.2)
        await settle(lambda: second.figure("cache_failures_total") >= 1)
        assert await own.asks(second, RTP)
        garbler.garbles = False
        with trio.fail_after(20):
            while not await client.asks(second, RTP, seconds=0.2):
                pass


@pytest.mark.parametrize("restarted", [False, True])
async def test_flows_are_written_again_after_redis_was_flushed(
    redis: RedisServer, stack: ExitStack, monkeypatch: pytest.MonkeyPatch, *, restarted: bool
) -> None:
    monkeypatch.setattr(forwarder, "WRITE_INTERVAL", 0.5)
    async with running(redis, 1) as (owner, (first,), start):
        clients, request = [CacheClient(stack) for _ in range(5)], binding_request(owner.token())
        for client in clients:
            assert await client.asks(first, request)
        await written(redis, len(clients))
        if restarted:
            redis.kill()
            redis.start()
        else:
            async with connect(redis.url) as commands:
                await commands.flushall()
                await commands.script_flush()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(check_on, clients, first, request)
            await written(redis, len(clients))
            nursery.cancel_scope.cancel()
        fresh = await start()
        for client in clients:
            assert await client.asks(fresh, RTP)
        assert fresh.figure("cache_found_total") == len(clients)


async def test_a_flood_of_unknown_flows_does_not_affect_calls(redis: RedisServer, stack: ExitStack) -> None:
    async with running(redis, 2) as (owner, (first, second), _):
        client, flood = CacheClient(stack), [CacheClient(stack) for _ in range(300)]
        assert await client.asks(first, binding_request(owner.token()))
        await written(redis, 1)
        for _ in range(10):
            for unknown in flood:
                unknown.socket.sendto(RTP, second.address)
            assert await client.asks(first, RTP)
        assert await client.asks(second, RTP)
        await settle(lambda: second.figure("cache_absent_total") >= len(flood) * 0.9)
        assert second.figure("flows") == 1
