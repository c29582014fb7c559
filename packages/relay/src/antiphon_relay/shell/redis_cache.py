"""The flow cache's connection to Redis: one task looks up, one writes behind. No packet loop waits for either."""

import logging
from collections.abc import Awaitable, Callable

import trio
from coredis import Redis
from coredis.exceptions import InvalidResponse, RedisError

from antiphon_common.shell.registry import ANSWER_SECONDS, connect
from antiphon_relay.cache import KEPT_SECONDS, RETRY_SECONDS, WAIT_SECONDS, FlowCache
from antiphon_relay.forwarder import Forwarder
from antiphon_relay.shell.packet_loop import PacketLoop

WRITE_SECONDS = 0.25
"""How long writes are collected into one batch."""
WRITE = "for i, name in ipairs(KEYS) do redis.call('SET', name, ARGV[i + 1], 'EX', ARGV[1]) end"
"""One command for a batch: a pipeline costs the packet loop ten times as much for each flow."""

log = logging.getLogger(__name__)


async def keep_flow_cache(url: str, cache: FlowCache, forwarder: Forwarder, loop: PacketLoop) -> None:
    """Look up and write what `cache` has to look up and to write, until cancelled."""

    async def look_up(redis: "Redis[bytes]") -> None:
        while not (keys := cache.take_lookups()):
            await loop.lookup_due.wait()
        try:
            values = await redis.mget([cache.name(key) for key in keys])
            if len(values) != len(keys) or not all(value is None or isinstance(value, bytes) for value in values):
                raise InvalidResponse("no values of these keys")
        except BaseException:  # cancellation too: a connection that breaks cancels its commands
            cache.lookup_failed(keys, trio.current_time())
            raise
        forwarder.restore(keys, values, trio.current_time())
        loop.flush()

    async def write(redis: "Redis[bytes]") -> None:
        await trio.sleep(WRITE_SECONDS)
        while cache.is_open(trio.current_time()) and (writes := cache.take_writes()):
            names, values = zip(*writes, strict=True)
            try:
                await redis.eval(WRITE, names, [KEPT_SECONDS, *values])
            except BaseException:
                cache.write_failed(trio.current_time())
                raise
            cache.write_succeeded()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_repeat, url, WAIT_SECONDS, look_up)
        nursery.start_soon(_repeat, url, ANSWER_SECONDS, write)


async def _repeat(url: str, seconds: float, act: Callable[["Redis[bytes]"], Awaitable[None]]) -> None:
    """Call `act` again and again, over a new connection after each failure."""
    while True:
        try:
            await _repeat_until_refused(url, seconds, act)
        except Exception:  # no exception that the client makes of a broken server ends a relay
            log.exception("the client of Redis failed")
            await trio.sleep(RETRY_SECONDS)


async def _repeat_until_refused(url: str, seconds: float, act: Callable[["Redis[bytes]"], Awaitable[None]]) -> None:
    async with connect(url, seconds) as redis:
        try:
            while True:
                await act(redis)
        except (RedisError, OSError) as error:
            log.debug("Redis does not answer", extra={"reason": str(error)})
