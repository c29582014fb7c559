"""The transceivers of a cluster in Redis: each renews its own lease, and relays and signaling servers read all.

No call waits for this. While Redis is gone, both tasks go on trying, and readers keep the last entries. coredis is
imported only where there is a Redis, since that takes half a second.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio

from antiphon_common.errors import DecodeError
from antiphon_common.keys import DerivedKeys
from antiphon_common.registry import LEASE_SECONDS, Registered, RegistryReader, seal

if TYPE_CHECKING:
    from coredis import Redis

RENEW_SECONDS = 1.0
"""Between two renewals of a lease, and between two reads of all entries."""
ANSWER_SECONDS = 0.5
"""Longest wait for a connection, and for each answer: a stalled Redis would use up the time of the lease."""
MAX_MEMBERS = 1000
"""Transceivers of one cluster. More would be tens of thousands of calls, or a wrong index."""

log = logging.getLogger(__name__)


def connect(url: str, seconds: float = ANSWER_SECONDS) -> "Redis[bytes]":
    """Return a client, an async context manager, that waits up to `seconds` for each answer.

    Its commands raise RedisError or OSError. Do not cancel a command: each one that is cancelled takes a connection out
    of the client's pool for good.
    """
    from coredis import Redis
    from coredis.retry import NoRetryPolicy

    return Redis.from_url(url, connect_timeout=ANSWER_SECONDS, stream_timeout=seconds, retry_policy=NoRetryPolicy())


async def keep_registered(url: str, keys: DerivedKeys, describe: Callable[[], Registered]) -> None:
    """Renew the lease of a transceiver until cancelled, and then end it. `describe` returns its present entry."""
    first = describe()
    place = first.control_url.partition("://")[2]
    names = _Names(first.link.cluster)

    async def renew(redis: "Redis[bytes]") -> None:
        value = seal(describe(), keys, time.time())
        await redis.set(names.member(place), value, px=round(LEASE_SECONDS * 1000))
        await redis.sadd(names.index, [place])

    try:
        await _every_second(url, renew)
    finally:
        with anyio.move_on_after(ANSWER_SECONDS, shield=True):
            await _end_lease(url, names, place)


async def watch_members(url: str, cluster: int, keys: DerivedKeys, found: Callable[[list[Registered]], None]) -> None:
    """Call `found` each second with the transceivers that have a lease, until cancelled. Redis failures are skipped."""
    names, reader = _Names(cluster), RegistryReader(keys)
    foreign = 0

    async def look(redis: "Redis[bytes]") -> None:
        nonlocal foreign
        places = sorted(await redis.smembers(names.index))[:MAX_MEMBERS]
        values = await redis.mget([names.member(place.decode(errors="replace")) for place in places]) if places else ()
        if gone := [place for place, value in zip(places, values, strict=True) if value is None]:
            await redis.srem(names.index, gone)  # a running one registers again within a second
        listed = [_read(value, reader) for value in values if value is not None]
        if foreign != (foreign := listed.count(None)):
            log.warning("entries of the registry are not of this installation, or too old", extra={"entries": foreign})
        found([member for member in listed if member is not None])

    await _every_second(url, look)


class _Names:
    """The Redis keys of a cluster. There is an index, since a search for a pattern would read all cached flows too."""

    def __init__(self, cluster: int) -> None:
        self.index = f"antiphon:{cluster}:transceivers"
        self._prefix = f"antiphon:{cluster}:transceiver:"

    def member(self, place: str) -> str:
        return self._prefix + place


async def _every_second(url: str, act: Callable[["Redis[bytes]"], Awaitable[None]]) -> None:
    from coredis.exceptions import RedisError

    async def work(redis: "Redis[bytes]") -> None:
        working = True
        while True:
            try:
                await act(redis)
            except (RedisError, OSError) as error:
                if working:
                    log.warning("Redis does not answer; going on without it", extra={"reason": str(error)})
                working = False
            else:
                if not working:
                    log.info("Redis answers again")
                working = True
            await anyio.sleep(RENEW_SECONDS)

    while True:
        try:
            async with connect(url) as redis:
                await work(redis)
        except Exception:  # no exception that the client makes of a broken server ends a service
            log.exception("the client of Redis failed")
        await anyio.sleep(RENEW_SECONDS)


async def _end_lease(url: str, names: _Names, place: str) -> None:
    try:
        async with connect(url) as redis:  # the previous connection has been cancelled
            await redis.delete([names.member(place)])
            await redis.srem(names.index, [place])
    except Exception as error:  # as above; the lease then expires
        log.debug("the lease was not ended", extra={"reason": str(error)})


def _read(value: bytes, reader: RegistryReader) -> Registered | None:
    try:
        return reader.read(value, time.time())
    except DecodeError:
        return None
