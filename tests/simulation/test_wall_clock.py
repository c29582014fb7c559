"""Keys begin and retire by the wall clock, which may be set while services run."""

from math import inf

from support.sim.world import Rotation, World

NEW_KEY_AT = 3600.0


def key_id(world: World) -> str:
    """Make a call and return the key id of its route token."""
    call = world.find(world.call())
    assert call is not None
    return call.answer.ice.ufrag[0]


def test_a_transceiver_mints_tokens_with_the_current_key_after_the_clock_is_set_forward() -> None:
    world = World(seed=1, rotation=Rotation(NEW_KEY_AT, None))
    before = key_id(world)
    world.transceivers[0].set_clock(NEW_KEY_AT)
    world.run(2.0)
    assert (before, key_id(world)) == ("A", "B")


def test_an_idle_transceiver_without_relays_requests_the_wall_time() -> None:
    world = World(seed=2, rotation=Rotation(NEW_KEY_AT, None))
    world.relays[0].die()
    world.run(20.0)
    assert world.transceivers[0].router.poll_timeout() < inf
    world.transceivers[0].set_clock(NEW_KEY_AT)
    world.run(2.0)
    assert key_id(world) == "B"
