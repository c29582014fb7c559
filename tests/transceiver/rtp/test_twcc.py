from math import inf

import pytest

from antiphon_transceiver.rtcp import TransportFeedback
from antiphon_transceiver.rtp.twcc import (
    FEEDBACK_DEADLINE,
    FEEDBACK_INTERVAL,
    MAX_PENDING,
    REPORTED,
    TwccReceiver,
    TwccSender,
)
from support.sim.memory_audit import MemoryAudit

TICK = 0.00025


def reported(receiver: TwccReceiver) -> dict[int, float | None]:
    """Poll the due feedback and return the arrival time of each packet in it."""
    feedback = receiver.feedback(1, 2)
    assert feedback is not None
    return arrivals(feedback)


def arrivals(feedback: TransportFeedback) -> dict[int, float | None]:
    at = feedback.reference_time * 0.064
    times: dict[int, float | None] = {}
    for offset, delta in enumerate(feedback.deltas):
        at += (delta or 0) * TICK
        times[feedback.base_sequence + offset & 0xFFFF] = None if delta is None else at
    return times


def approximately(times: dict[int, float | None]) -> dict[int, object]:
    return {number: None if at is None else pytest.approx(at, abs=1.1 * TICK) for number, at in times.items()}


def test_arrivals_and_losses_are_reported_in_order_across_the_wrap() -> None:
    receiver = TwccReceiver()
    for sequence, at in ((65534, 10.0), (65535, 10.021), (1, 10.06), (0, 10.07), (3, 10.2)):
        receiver.received(sequence, at)
    expected: dict[int, float | None] = {65534: 10.0, 65535: 10.021, 0: 10.07, 1: 10.06, 2: None, 3: 10.2}
    assert reported(receiver) == approximately(expected)
    assert receiver.feedback(1, 2) is None


def test_a_loss_between_two_feedback_packets_is_reported_in_the_second() -> None:
    receiver = TwccReceiver()
    receiver.received(7, 0.1)
    reported(receiver)
    receiver.received(9, 0.2)
    assert reported(receiver) == approximately({8: None, 9: 0.2})


def test_a_late_packet_is_reported_together_with_those_around_it() -> None:
    receiver = TwccReceiver()
    for sequence, at in ((7, 0.1), (9, 0.12), (10, 0.14)):
        receiver.received(sequence, at)
    reported(receiver)
    receiver.received(8, 0.2)
    receiver.received(11, 0.21)
    assert reported(receiver) == approximately({8: 0.2, 9: 0.12, 10: 0.14, 11: 0.21})
    receiver.received(8, 0.3)
    assert reported(receiver) == approximately({8: 0.3})
    receiver.received(12, 0.4)
    assert reported(receiver) == approximately({12: 0.4})


def test_rounding_errors_do_not_accumulate() -> None:
    receiver = TwccReceiver()
    times: dict[int, float | None] = {number: 5.0 + number * 0.0201 for number in range(MAX_PENDING)}
    for number, at in times.items():
        receiver.received(number, at or 0.0)
    assert reported(receiver) == approximately(times)


def test_feedback_is_due_with_a_packet_or_soon_after_by_a_timer() -> None:
    receiver = TwccReceiver()
    assert receiver.due == receiver.deadline == inf
    receiver.received(1, 5.0)
    receiver.received(2, 5.02)
    assert receiver.due == 5.0 + FEEDBACK_INTERVAL
    assert receiver.deadline == pytest.approx(5.0 + FEEDBACK_DEADLINE)
    reported(receiver)
    assert receiver.due == inf


def test_feedback_is_numbered() -> None:
    receiver = TwccReceiver()
    counts = []
    for number in range(258):
        receiver.received(number, number * 0.1)
        feedback = receiver.feedback(1, 2)
        assert feedback is not None
        counts.append(feedback.count)
    assert counts == [*range(256), 0, 1]


def test_pending_packets_are_bounded() -> None:
    receiver = TwccReceiver()
    for number in range(MAX_PENDING + 50):
        receiver.received(number * 31 & 0xFFFF, 0.0)
    assert receiver.dropped == 50
    feedback = receiver.feedback(1, 2)
    assert feedback is not None
    feedback.encode()
    for start in (60_000, 100, 40_000, 39_000, 5):
        for offset in range(300):
            receiver.received(start + offset * 7 & 0xFFFF, 1.0)
        feedback = receiver.feedback(1, 2)
        if feedback is not None:
            feedback.encode()
        assert MemoryAudit([receiver]).largest <= 2 * REPORTED + MAX_PENDING


def run(delays: list[float | None], *, offset: float = 1000.0) -> TwccSender:
    """Send packets every 20 ms with these transit times; None is a loss. Clocks differ by `offset`."""
    sender, receiver = TwccSender(), TwccReceiver()
    moments = [(number * 0.02, number, True) for number in range(len(delays))]
    moments += [(number * 0.02 + delay, number, False) for number, delay in enumerate(delays) if delay is not None]
    for at, number, leaves in sorted(moments):
        if leaves:
            sender.sent(number & 0xFFFF, at)
            continue
        receiver.received(number & 0xFFFF, at + offset)
        if at + offset >= receiver.due:
            feedback = receiver.feedback(1, 2)
            assert feedback is not None
            sender.feedback_received(feedback, at)
    return sender


def test_the_sender_measures_losses_and_delay() -> None:
    sender = run([None if number % 5 == 4 else 0.03 for number in range(1000)])
    assert sender.loss == pytest.approx(0.2, abs=0.03)
    assert sender.received == pytest.approx(800, abs=5)
    assert sender.lost == pytest.approx(200, abs=5)
    assert sender.delay == pytest.approx(0.0, abs=0.001)
    queued = run([0.03 + (0.04 if number > 500 else 0.0) for number in range(1000)])
    assert queued.delay == pytest.approx(0.04, abs=0.006)
    assert queued.loss == 0.0


@pytest.mark.parametrize(("length", "share"), [(1, 0.0), (3, 0.67)])
def test_the_sender_measures_the_burst_ratio_of_losses(length: int, share: float) -> None:
    sender = run([None if number % 20 < length else 0.03 for number in range(2000)])
    assert sender.burst_ratio == pytest.approx(share, abs=0.1)


def test_reordering_is_not_loss() -> None:
    sender = run([0.03 if number % 7 else 0.14 for number in range(1000)])
    assert sender.lost <= 1
    assert sender.received == pytest.approx(1000, abs=12)


def test_the_receivers_clock_may_wrap_and_drift() -> None:
    wrap = 0x1000000 * 0.064
    sender = run([0.03] * 1000, offset=wrap - 10.0)
    assert sender.delay == pytest.approx(0.0, abs=0.001)
    slow = run([0.03 + number * 0.02 * 200e-6 for number in range(30_000)])
    assert slow.delay == pytest.approx(0.0, abs=0.002)


def test_feedback_on_packets_never_sent_changes_nothing() -> None:
    sender = TwccSender()
    sender.feedback_received(TransportFeedback(1, 2, 500, 7, 0, (1, None, 2)), 0.0)
    assert (sender.received, sender.lost, sender.loss, sender.delay) == (0, 0, 0.0, None)


def test_feedback_is_evaluated_for_remembered_packets_only() -> None:
    """Arrival times of forgotten or unsent packets only lead to those of remembered packets."""
    sender, alone = TwccSender(), TwccSender()
    for number in range(1000):
        sender.sent(number, number * 0.02)
        alone.sent(number, number * 0.02)
    sender.feedback_received(TransportFeedback(1, 2, 500, 100, 0, (None, *(80,) * 519)), 21.0)
    alone.feedback_received(TransportFeedback(1, 2, 744, 101, 0, (19_264, *(80,) * 255)), 21.0)
    assert (sender.received, sender.lost) == (256, 0) == (alone.received, alone.lost)
    assert sender.delay == pytest.approx(alone.delay)
    sender.feedback_received(TransportFeedback(1, 2, 500, 100, 0, (None,) * 250), 21.0)
    assert (sender.received, sender.lost) == (256, 0), "they were known to be received"


def test_a_reused_sequence_number_is_a_new_packet() -> None:
    sender = TwccSender()
    for _ in range(2):
        sender.sent(5, 1.0)
        for _ in range(3):
            sender.feedback_received(TransportFeedback(1, 2, 5, 7, 0, (1,)), 1.1)
    assert sender.received == 2
