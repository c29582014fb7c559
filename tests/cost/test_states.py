"""Every state can be prepared. Its preparation compares tables with the constants that bound them."""

from collections.abc import Callable

import pytest

from cost.search import Ready
from cost.targets import STATES

PREPARED = {f"{state.target}, {state.name}": state.prepare for state in STATES if state.target != "decoder"}


@pytest.mark.parametrize("name", PREPARED)
def test_each_state_can_be_prepared(name: str) -> None:
    prepare: Callable[[], Ready] = PREPARED[name]
    assert prepare().seeds
