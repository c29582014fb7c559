import pytest

from antiphon_transceiver.rtcp import SenderReport
from antiphon_transceiver.rtp import ReceiverStatistics, SenderStatistics

RATE = 48000
FRAME = 960


def receive(statistics: ReceiverStatistics, numbers: list[int], *, start: float = 0.0) -> None:
    """Deliver packets of 20 ms at the times of their sequence numbers."""
    for number in numbers:
        statistics.packet_received(number & 0xFFFF, number * FRAME & 0xFFFFFFFF, start + number * 0.02)


@pytest.mark.parametrize(
    ("numbers", "lost", "fraction", "highest"),
    [
        ([*range(10, 20)], 0, 0, 19),
        ([10, 11, 13, 19], 6, 153, 19),
        ([10, 13, 12, 11], 0, 0, 13),
        ([10, 10, 10, 11], -2, 0, 11),
        ([65534, 65535, 65537, 65536], 0, 0, 65537),
        ([65534, 65537], 2, 128, 65537),
        ([5], 0, 0, 5),
        ([0, 2999], 2998, 255, 2999),
    ],
)
def test_losses_are_counted(numbers: list[int], lost: int, fraction: int, highest: int) -> None:
    statistics = ReceiverStatistics(1, RATE)
    receive(statistics, numbers)
    block = statistics.report(100.0)
    assert (block.packets_lost, block.fraction_lost, block.highest_sequence) == (lost, fraction, highest)
    assert statistics.packets_lost == lost


def test_the_fraction_lost_covers_the_last_interval() -> None:
    statistics = ReceiverStatistics(1, RATE)
    receive(statistics, [0, 1, 2, 9])
    assert statistics.report(1.0).fraction_lost == 153
    receive(statistics, [10, 11, 12, 13])
    block = statistics.report(2.0)
    assert (block.fraction_lost, block.packets_lost) == (0, 6)
    assert statistics.report(3.0).fraction_lost == 0  # nothing expected, nothing lost


def test_a_source_that_restarts_is_not_a_loss() -> None:
    statistics = ReceiverStatistics(1, RATE)
    receive(statistics, [*range(100)])
    receive(statistics, [20000])  # alone: a stray
    receive(statistics, [100, 101])
    assert statistics.report(3.0).highest_sequence == 101
    receive(statistics, [40000, 40001, 40002])
    block = statistics.report(4.0)
    assert (block.highest_sequence, block.packets_lost) == (40002, 0)


def test_regular_packets_have_no_jitter_across_the_wrap_of_timestamps() -> None:
    statistics = ReceiverStatistics(1, RATE)
    first = (1 << 32) // FRAME - 50
    receive(statistics, [*range(first, first + 100)], start=-first * 0.02)
    assert statistics.report(2.0).jitter == 0


def test_one_deviation_changes_the_jitter_by_a_sixteenth() -> None:
    statistics = ReceiverStatistics(1, RATE)
    statistics.packet_received(0, 0, 0.0)
    statistics.packet_received(1, FRAME, 0.02 + 0.016)
    assert statistics.jitter == pytest.approx(0.001)


def test_jitter_tends_to_the_mean_deviation() -> None:
    statistics = ReceiverStatistics(1, RATE)
    for number in range(500):
        statistics.packet_received(number, number * FRAME, number * 0.02 + (0.005 if number % 2 else 0.0))
    assert statistics.jitter == pytest.approx(0.005, rel=0.01)
    assert statistics.report(10.0).jitter == pytest.approx(0.005 * RATE, rel=0.01)


def test_the_last_sender_report_is_echoed() -> None:
    statistics = ReceiverStatistics(1, RATE)
    receive(statistics, [1])
    block = statistics.report(1.0)
    assert (block.last_sr, block.delay) == (0, 0)
    statistics.sender_report_received(SenderReport(1, 0x1234_56789ABC_DEF0, 0, 0, 0), 2.0)
    block = statistics.report(3.5)
    assert (block.last_sr, block.delay) == (0x56789ABC, 3 * 0x8000)


def test_a_sender_report_has_one_instant_on_both_clocks() -> None:
    statistics = SenderStatistics(ssrc=9, clock_rate=RATE, ntp_offset=3_900_000_000.0)
    for number in range(3):
        statistics.packet_sent(0xFFFFFFFF - FRAME + number * FRAME, 100, number * 0.02)
    report = statistics.report((), 0.04 + 0.5)
    assert (report.ssrc, report.packet_count, report.octet_count) == (9, 3, 300)
    assert report.rtp_timestamp == FRAME + RATE // 2 - 1
    assert report.ntp_time / (1 << 32) == pytest.approx(3_900_000_000.54, abs=1e-5)


def test_packets_of_another_clock_are_counted_without_effect_on_jitter() -> None:
    """The timestamp of a telephone event stays that of its beginning (RFC 4733 §2.2.1)."""
    statistics = ReceiverStatistics(1, RATE)
    for index in range(100):
        statistics.packet_received(2 * index, index * 960, index * 0.02)
        statistics.packet_received(2 * index + 1, 0, index * 0.02 + 0.005, timed=False)
    assert statistics.jitter == pytest.approx(0)
    assert statistics.packets_lost == 0
    assert statistics.last_received_at == pytest.approx(99 * 0.02 + 0.005)
