"""The retransmission timeout follows the round trip, with time for a delayed SACK."""

import pytest

from antiphon_transceiver.sctp.rto import (
    INITIAL_RTO,
    MAX_BACK_OFF,
    MAX_RTO,
    MAX_SACK_DELAY,
    RetransmissionTimeout,
)


@pytest.mark.parametrize("round_trip", [0.0, 0.001, 0.05, 0.3])
def test_a_steady_path_leaves_time_for_a_delayed_sack(round_trip: float) -> None:
    rto = RetransmissionTimeout()
    for _ in range(50):
        rto.measure(round_trip)
    assert round_trip + MAX_SACK_DELAY < rto.value < round_trip + 0.25


def test_a_varying_round_trip_lengthens_the_timeout() -> None:
    rto = RetransmissionTimeout()
    for _ in range(50):
        rto.measure(0.1)
        rto.measure(0.5)
    assert 0.8 < rto.value < 1.5


def test_the_first_measurement_sets_the_smoothed_round_trip() -> None:
    rto = RetransmissionTimeout()
    assert rto.value == INITIAL_RTO
    rto.measure(0.4)
    assert rto.value == pytest.approx(0.4 + 4 * 0.2)  # RFC 6298 §2.2


def test_the_timeout_doubles_until_an_acknowledgement() -> None:
    rto = RetransmissionTimeout()
    rto.measure(0.02)
    measured = rto.value
    rto.back_off()
    assert rto.value == 2 * measured
    for _ in range(10):
        rto.back_off()
    assert rto.value == MAX_BACK_OFF
    rto.answered()
    assert rto.value == measured


def test_backoff_never_shortens_the_timeout() -> None:
    rto = RetransmissionTimeout()
    for _ in range(50):
        rto.measure(2.5)
    assert MAX_BACK_OFF < rto.value <= MAX_RTO
    before = rto.value
    rto.back_off()
    assert rto.value == before
