"""The limits of ICE restarts: a burst, then a rate, and a total."""

import pytest

from antiphon_transceiver.ice_restarts import (
    MAX_RESTARTS,
    RESTART_SECONDS,
    RESTARTS_AT_ONCE,
    RestartLimiter,
    TooManyRestarts,
)


def test_restarts_beyond_the_burst_are_paced() -> None:
    limiter = RestartLimiter(0.0)
    for _ in range(RESTARTS_AT_ONCE):
        limiter.count(0.0)
    with pytest.raises(TooManyRestarts) as error:
        limiter.count(1.0)
    assert error.value.retry_after == RESTART_SECONDS - 1
    limiter.count(RESTART_SECONDS)


def test_the_restarts_of_a_call_are_bounded() -> None:
    limiter = RestartLimiter(0.0)
    for number in range(MAX_RESTARTS):
        limiter.count(number * RESTART_SECONDS)
    with pytest.raises(TooManyRestarts) as error:
        limiter.count(2 * MAX_RESTARTS * RESTART_SECONDS)
    assert error.value.retry_after is None
