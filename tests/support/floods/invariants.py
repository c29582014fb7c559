"""The limits within which ten live calls stay in every flood scenario, and the assertion of all of them."""

from support.floods.scenario import SCENARIO_HEADING, Impact
from support.floods.setup import LIVE_CALLS, FloodSetup

TOLERATED_LOSS = 0.01
TOLERATED_LOSS_OF_ONE = 0.05
"""Share that one call may lose: half a second of a flood of about ten seconds."""

TOLERATED_DELAY = 0.05
"""Seconds by which the longest round-trip delay of a second may grow over that of the quiet period before."""

TOLERATED_GROWTH = 16 << 20
"""Bytes of memory growth: buffers of a call in both directions, and memory that the allocator keeps."""


def assert_unharmed(setup: FloodSetup, impact: Impact) -> None:
    """Print the impact of a flood, and assert that the live calls stayed within the limits."""
    print(f"\n{SCENARIO_HEADING}\n{impact.row()}")
    setup.scenario_rows.append(impact.row())
    assert impact.quiet.lost <= TOLERATED_LOSS, "the machine is too busy with other things to measure anything"
    assert impact.alive == LIVE_CALLS
    assert impact.flooded.lost <= TOLERATED_LOSS
    assert impact.flooded.worst_lost <= TOLERATED_LOSS_OF_ONE
    assert impact.delay_growth <= TOLERATED_DELAY
    assert all(call.received for call in impact.new_calls), "a new call did not connect"
    assert not any(impact.left.values()), impact.left
    assert impact.growth <= TOLERATED_GROWTH
