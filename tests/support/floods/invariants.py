"""What holds of ten live calls in every flood scenario."""

from support.floods.scenario import SCENARIO_HEADING, Impact
from support.floods.setup import LIVE_CALLS, Battlefield

TOLERATED_LOSS = 0.01
TOLERATED_LOSS_OF_ONE = 0.05
"""A flood lasts some ten seconds: no caller loses the thread by half a second less."""

TOLERATED_DELAY = 0.05
"""Seconds by which the longest delay of a second, there and back, may grow over the quiet period before."""

TOLERATED_GROWTH = 16 << 20
"""Bytes: what a call may hold, on both its sides, and what the allocator keeps."""


def assert_unharmed(setup: Battlefield, impact: Impact) -> None:
    """Print what a flood did, and check that nobody else noticed it."""
    print(f"\n{SCENARIO_HEADING}\n{impact.row()}")
    setup.scenarios.append(impact.row())
    assert impact.quiet.lost <= TOLERATED_LOSS, "the machine is too busy with other things to measure anything"
    assert impact.alive == LIVE_CALLS
    assert impact.flooded.lost <= TOLERATED_LOSS
    assert impact.flooded.worst_lost <= TOLERATED_LOSS_OF_ONE
    assert impact.delay_growth <= TOLERATED_DELAY
    assert all(call.received for call in impact.new_calls), "a new call did not connect"
    assert not any(impact.left.values()), impact.left
    assert impact.growth <= TOLERATED_GROWTH
