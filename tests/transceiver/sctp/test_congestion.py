"""The congestion window: slow start, avoidance, recovery."""

from antiphon_transceiver.sctp.congestion import INITIAL_PACKETS, MAX_CWND, CongestionControl

PACKET = 1000


def full(control: CongestionControl, size: int = 2 * PACKET) -> None:
    """Acknowledge `size` bytes while cwnd is fully used."""
    control.acknowledged(0, size, control.cwnd)


def test_slow_start_doubles_cwnd_in_a_round_trip() -> None:
    control = CongestionControl(PACKET)
    for _ in range(INITIAL_PACKETS // 2):
        full(control)
    assert control.cwnd == 2 * INITIAL_PACKETS * PACKET


def test_cwnd_that_was_not_fully_used_does_not_grow() -> None:
    control = CongestionControl(PACKET)
    control.acknowledged(0, PACKET, PACKET)
    assert control.cwnd == INITIAL_PACKETS * PACKET


def test_loss_halves_cwnd_once_per_fast_recovery() -> None:
    control = CongestionControl(PACKET)
    assert control.lost(50)
    assert control.cwnd == control.ssthresh == INITIAL_PACKETS * PACKET // 2
    assert not control.lost(60)
    full(control)
    assert control.cwnd == INITIAL_PACKETS * PACKET // 2
    control.acknowledged(50, PACKET, PACKET)
    assert not control.recovering
    assert control.lost(99)


def test_cwnd_grows_by_a_packet_per_round_trip_in_congestion_avoidance() -> None:
    control = CongestionControl(PACKET)
    control.lost(0)
    control.acknowledged(0, PACKET, PACKET)
    full(control)  # reaches ssthresh
    before = control.cwnd
    for _ in range(before // (2 * PACKET) + 1):
        full(control)
    assert control.cwnd == before + PACKET


def test_a_timeout_reduces_cwnd_to_one_packet() -> None:
    control = CongestionControl(PACKET)
    control.timed_out()
    assert control.cwnd == PACKET
    assert control.ssthresh == INITIAL_PACKETS * PACKET // 2


def test_cwnd_is_bounded_and_reduced_after_a_pause() -> None:
    control = CongestionControl(PACKET)
    for _ in range(10_000):
        full(control)
    assert control.cwnd == MAX_CWND
    control.resumed()
    assert control.cwnd == INITIAL_PACKETS * PACKET
