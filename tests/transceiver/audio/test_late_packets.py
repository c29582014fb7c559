import pytest

from antiphon_transceiver.audio.late_packets import (
    MAX_SUSPECTS,
    RESUMED_AFTER,
    STRAYED_AFTER,
    LatePacket,
    LatePacketDetector,
)


def late(index: int, arrived: float, transit: float) -> LatePacket:
    return LatePacket(index, 0, b"", (), arrived, transit)


def test_steady_transit_times_reveal_a_stopped_clock() -> None:
    run = LatePacketDetector()
    shown = [run.add(late(index, index * 0.02, 0.3), 0.0, behind=False) for index in range(5)]
    assert shown == [False] * 4 + [True]
    assert [packet.extended for packet in run.take(0.08, 0.15)] == list(range(5))
    assert run.dropped == 0


def test_a_draining_queue_is_not_a_stopped_clock() -> None:
    run = LatePacketDetector()
    assert not any(run.add(late(index, index * 0.01, 0.9 - index * 0.01), 0.0, behind=False) for index in range(60))
    assert not run.is_continued(0.29, 0.61)


def test_packets_after_released_later_ones_need_more_evidence() -> None:
    run = LatePacketDetector()
    shown = [run.add(late(index, index * 0.02, 0.3), 0.0, behind=True) for index in range(40)]
    assert shown.index(True) * 0.02 == pytest.approx(STRAYED_AFTER, abs=0.021)
    assert STRAYED_AFTER > RESUMED_AFTER


def test_a_packet_with_a_similar_transit_time_continues_a_series_of_late_ones() -> None:
    run = LatePacketDetector()
    run.add(late(0, 0.0, 0.1), 0.0, behind=False)
    assert not run.is_continued(0.1, 0.02), "two packets show nothing"
    run.add(late(1, 0.02, 0.1), 0.0, behind=False)
    assert run.is_continued(0.1, 0.04)
    assert not run.is_continued(0.06, 0.04), "the queue has emptied"


def test_late_packets_far_older_than_the_others_are_dropped() -> None:
    run = LatePacketDetector()
    for index, transit in enumerate((1.0, 0.98, 0.96, 0.3, 0.3, 0.3, 0.3)):
        run.add(late(index, index * 0.02, transit), 0.0, behind=False)
    assert [packet.extended for packet in run.take(0.12, 0.15)] == [3, 4, 5, 6]
    assert run.dropped == 3


def test_a_series_of_late_packets_is_bounded() -> None:
    run = LatePacketDetector()
    for index in range(1000):
        run.add(late(index, 0.0, 1.0), 0.0, behind=False)
    assert len(run.packets) == MAX_SUSPECTS
    run.drop()
    assert (run.packets, run.dropped) == ([], 1000)
