"""Leases in a real redis-server, and the last entries while it is down."""

import json
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest
import trio

from antiphon_common.control import LinkInfo, Load
from antiphon_common.keys import KeyRing
from antiphon_common.registry import Registered, seal
from antiphon_common.shell.registry import connect, keep_registered, watch_members
from support.processes.redis_server import RedisServer, garbling, redis_server

KEYS = KeyRing.generate(lambda size: bytes(range(size))).control
FOREIGN = KeyRing.generate(bytes).control
ONE = Registered("http://127.0.0.1:8090", LinkInfo(0, ("127.0.0.1:4000",)), Load(1, 10))
OTHER = Registered("http://[::1]:8090", LinkInfo(0, ("[::1]:4000",)), Load(2, 10, draining=True))


class RegistryView:
    """The entries that a watcher finds."""

    def __init__(self) -> None:
        self.members: list[Registered] = []
        self.looks = 0

    def found(self, members: list[Registered]) -> None:
        self.members = sorted(members, key=lambda member: member.control_url)
        self.looks += 1

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(20):
            while not condition():
                await trio.sleep(0.01)

    async def until_there(self, *members: Registered) -> None:
        await self.until(lambda: self.members == list(members))


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def seen(redis: RedisServer, nursery: trio.Nursery) -> RegistryView:
    seen = RegistryView()
    nursery.start_soon(watch_members, redis.url, 0, KEYS, seen.found)
    return seen


async def test_a_lease_is_listed_and_ends_with_its_transceiver(
    redis: RedisServer, seen: RegistryView, nursery: trio.Nursery
) -> None:
    loads = [ONE, msgspec.structs.replace(ONE, load=Load(7, 10))]
    async with trio.open_nursery() as inner:
        inner.start_soon(keep_registered, redis.url, KEYS, lambda: loads[0])
        nursery.start_soon(keep_registered, redis.url, KEYS, lambda: OTHER)
        await seen.until_there(ONE, OTHER)
        del loads[0]
        await seen.until_there(loads[0], OTHER)
        inner.cancel_scope.cancel()
    looks = seen.looks
    await seen.until(lambda: seen.looks >= looks + 2)
    assert seen.members == [OTHER]


async def test_entries_of_other_clusters_and_installations_are_not_listed(
    redis: RedisServer, seen: RegistryView, nursery: trio.Nursery
) -> None:
    elsewhere = msgspec.structs.replace(OTHER, link=LinkInfo(1, ("[::1]:4000",)))
    nursery.start_soon(keep_registered, redis.url, KEYS, lambda: elsewhere)
    nursery.start_soon(keep_registered, redis.url, FOREIGN, lambda: OTHER)
    nursery.start_soon(keep_registered, redis.url, KEYS, lambda: ONE)
    await seen.until_there(ONE)
    looks = seen.looks
    await seen.until(lambda: seen.looks >= looks + 2)
    assert seen.members == [ONE]


@pytest.mark.parametrize("kind", ["empty tag", "half a tag", "replayed"])
async def test_write_access_to_redis_is_not_enough_to_list_an_entry(
    kind: str, redis: RedisServer, seen: RegistryView, nursery: trio.Nursery
) -> None:
    """An entry without a tag, and one written an hour ago by a transceiver that no longer runs."""
    entry = json.loads(seal(OTHER, KEYS, time.time() - (3600 if kind == "replayed" else 0)))
    entry["tag"] = {"empty tag": "", "half a tag": entry["tag"][:16]}.get(kind, entry["tag"])
    async with connect(redis.url) as client:
        await client.set("antiphon:0:transceiver:[::1]:8090", json.dumps(entry, separators=(",", ":")))
        await client.sadd("antiphon:0:transceivers", ["[::1]:8090"])
    nursery.start_soon(keep_registered, redis.url, KEYS, lambda: ONE)
    await seen.until_there(ONE)
    looks = seen.looks
    await seen.until(lambda: seen.looks >= looks + 2)
    assert seen.members == [ONE]


@pytest.mark.parametrize("how", ["killed", "stalled"])
async def test_the_last_entries_stay_while_redis_is_down(
    how: str, redis: RedisServer, seen: RegistryView, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    nursery.start_soon(keep_registered, redis.url, KEYS, lambda: ONE)
    await seen.until_there(ONE)
    redis.kill() if how == "killed" else redis.stall()
    await seen.until(lambda: sum("does not answer" in line for line in caplog.messages) == 2)
    looks = seen.looks
    assert seen.members == [ONE]
    redis.start() if how == "killed" else redis.resume()
    await seen.until(lambda: seen.looks > looks and seen.members == [ONE])
    assert sum("does not answer" in line for line in caplog.messages) == 2


async def test_a_client_can_be_stopped_while_redis_stalls(redis: RedisServer) -> None:
    async with connect(redis.url) as client:
        await client.ping()
        redis.stall()
        with pytest.raises(OSError, match="timed out"):
            await client.ping()
    redis.resume()


@pytest.mark.parametrize("answer", [b"$xx\r\n", b"-ERR \xff\r\n", b"\r\n"], ids=["length", "text", "empty"])
async def test_a_lease_expires_when_redis_sends_an_invalid_answer_at_its_end(
    redis: RedisServer, seen: RegistryView, answer: bytes
) -> None:
    async with garbling(redis, b"DEL", answer) as garbler, trio.open_nursery() as inner:
        inner.start_soon(keep_registered, garbler.url, KEYS, lambda: ONE)
        await seen.until_there(ONE)
        inner.cancel_scope.cancel()
    await seen.until_there()
