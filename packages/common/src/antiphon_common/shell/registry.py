"""The transceivers of a cluster as Redis has them: each renews its own lease, and who looks for them reads all.

Nothing here is waited for by a call: while Redis is gone, both tasks go on trying, and who looks keeps what it knew.
coredis is imported only where there is a Redis, since that takes half a second.
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
ANSWER_SECONDS = 0.5
"""How long Redis may take to be connected, and for each answer: a stalled one would take all the time of the lease."""
MAX_MEMBERS = 1000
"""Transceivers of one cluster; more would be some tens of thousands of calls, and a wrong index."""

log = logging.getLogger(__name__)


def connect(url: str, seconds: float = ANSWER_SECONDS) -> "Redis[bytes]":
    """Return a client that waits so long for each answer; it is an async context manager. What fails raises RedisError
    or OSError. Let no cancellation cut its commands off: each would take a connection out of its pool for ever."""
    from coredis import Redis
    from coredis.retry import NoRetryPolicy

    return Redis.from_url(url, connect_timeout=ANSWER_SECONDS, stream_timeout=seconds, retry_policy=NoRetryPolicy())


async def keep_registered(url: str, keys: DerivedKeys, describe: Callable[[], Registered]) -> None:
    """Renew the lease of the transceiver that `describe` tells of until cancelled, and give it back then."""
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
            await _give_back(url, names, place)


async def watch_members(url: str, cluster: int, keys: DerivedKeys, found: Callable[[list[Registered]], None]) -> None:
    """Call `found` each second with the transceivers that have a lease, until cancelled; not while Redis is gone."""
    names, reader = _Names(cluster), RegistryReader(keys)
    foreign = 0

    async def look(redis: "Redis[bytes]") -> None:
        nonlocal foreign
        places = sorted(await redis.smembers(names.index))[:MAX_MEMBERS]
        values = await redis.mget([names.member(place.decode(errors="replace")) for place in places]) if places else ()
        if gone := [place for place, value in zip(places, values, strict=True) if value is None]:
            await redis.srem(names.index, gone)  # one that lives comes back within a second
        listed = [_read(value, reader) for value in values if value is not None]
        if foreign != (foreign := listed.count(None)):
            log.warning("entries of the registry are not of this installation, or too old", extra={"entries": foreign})
        found([member for member in listed if member is not None])

    await _every_second(url, look)


class _Names:
    """Keys in Redis. There is an index, because flows may be there too: looking for a pattern would read them all."""

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
        except Exception:  # whatever else the client makes of a broken server ends no service
            log.exception("the client of Redis failed")
        await anyio.sleep(RENEW_SECONDS)


async def _give_back(url: str, names: _Names, place: str) -> None:
    try:
        async with connect(url) as redis:  # the connection there was has been cancelled
            await redis.delete([names.member(place)])
            await redis.srem(names.index, [place])
    except Exception as error:  # as above; the lease then ends by itself
        log.debug("the lease was not given back", extra={"reason": str(error)})


def _read(value: bytes, reader: RegistryReader) -> Registered | None:
    try:
        return reader.read(value, time.time())
    except DecodeError:
        return None
