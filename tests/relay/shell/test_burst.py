"""2,000 flows arrive at once at a relay just started. `nox -s load` measures the time until all are served."""

from support.floods.relay_burst import announced_flows, flows_in_redis


async def test_a_fresh_relay_serves_2000_flows_announced_by_their_owner() -> None:
    async with announced_flows() as burst:
        await burst()


async def test_a_fresh_relay_serves_2000_flows_left_in_redis_by_another_relay() -> None:
    async with flows_in_redis() as burst:
        await burst()
