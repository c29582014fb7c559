"""The placement of offers on transceivers as processes, found in Redis or by request."""

from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
import trio

from support.peers.callers import Callers, calling
from support.processes.redis_server import RedisServer, redis_server
from support.processes.services import apart

LISTED_SECONDS = 10.0


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


async def offers_at_once(callers: Callers, count: int) -> Counter[int]:
    """Make offers at once. Return the number of responses by status."""
    answers: list[httpx.Response] = []

    async def offer() -> None:
        answers.append(await callers.offer())

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(offer)
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 503)
    return Counter(answer.status_code for answer in answers)


async def until_placed(callers: Callers) -> None:
    """Wait until a call is accepted again."""
    with trio.fail_after(LISTED_SECONDS):
        while (await callers.offer()).status_code != 201:
            await trio.sleep(0.1)


@pytest.mark.parametrize("found_by", ["asking", "redis"])
async def test_concurrent_offers_beyond_the_capacity_are_refused(found_by: str, redis: RedisServer) -> None:
    capacity, transceivers = 10, 2
    shared = ("--redis", redis.url) if found_by == "redis" else ()
    with apart(capacity=capacity, transceivers=transceivers, shared=shared) as deployment:
        async with calling(deployment.url) as callers:
            statuses = await offers_at_once(callers, capacity * transceivers + 1)
    assert statuses == {201: capacity * transceivers, 503: 1}


@pytest.mark.parametrize("how", ["killed", "stalled"])
async def test_calls_are_placed_while_redis_is_down(how: str, redis: RedisServer) -> None:
    with apart(transceivers=2, shared=("--redis", redis.url)) as deployment:
        async with calling(deployment.url) as callers:
            live = await callers.call()
            redis.kill() if how == "killed" else redis.stall()
            for service in ("signaling", "transceiver", "transceiver 2"):
                await trio.to_thread.run_sync(deployment.services[service].wait_for_log, "Redis does not answer")
            for _ in range(4):
                (await callers.call()).hang_up()
            await trio.sleep(4)  # longer than a lease
            (await callers.call()).hang_up()
            await callers.wait_for_audio(live, 10)
            deployment.services["transceiver 2"].kill()
            await until_placed(callers)
            redis.start() if how == "killed" else redis.resume()
            await trio.to_thread.run_sync(deployment.services["signaling"].wait_for_log, "Redis answers again")
            (await callers.call()).hang_up()


async def test_the_capacity_of_a_crashed_transceiver_returns_after_its_restart(redis: RedisServer) -> None:
    with apart(capacity=2, transceivers=2, shared=("--redis", redis.url)) as deployment:
        async with calling(deployment.url) as callers:
            assert await offers_at_once(callers, 4) == {201: 4}
            assert (await callers.offer()).status_code == 503
            crashed = deployment.services["transceiver 2"]
            crashed.kill()
            assert (await callers.offer()).status_code == 503
            with crashed.again():
                await until_placed(callers)
