"""Two ends that exchange RTP and feedback on single packets."""

from collections.abc import Sequence
from math import inf
from typing import Any

import pytest

from antiphon_common.rtp_extensions import TRANSPORT_SEQUENCE
from antiphon_transceiver.rtcp import Bye, GenericNack, ReceiverReport, RtcpPacket, TransportFeedback
from antiphon_transceiver.rtp import RtpOptions, RtpPacket, RtpReceiver, RtpSender, decode_rtp, feedback_statistics
from antiphon_transceiver.rtp.options import NACK, TRANSPORT_CC
from antiphon_transceiver.rtp.receiver import MAX_SOURCES

BOTH = RtpOptions({TRANSPORT_SEQUENCE: 3}, "0", (NACK, TRANSPORT_CC))
MAXIMUM_WAIT = 0.06


class FeedbackEnd:
    """One end of a stream, whose packets are not encrypted."""

    def __init__(self, ssrc: int, options: RtpOptions = BOTH) -> None:
        self.sender = RtpSender(ssrc, 111, 0)
        self.sender.negotiate(options)
        self.receiver = RtpReceiver(48_000)
        self.receiver.negotiate(options)
        self.received: list[int] = []

    @property
    def statistics(self) -> dict[str, Any]:
        return feedback_statistics(self.sender, self.receiver)

    def send(self, now: float) -> bytes:
        packet = self.sender.packet(b"speech", 0, now)
        self.sender.sent(packet, now)
        return packet

    def receive(self, packet: bytes, now: float) -> bool:
        """Receive a packet. Return True if feedback is due with it."""
        decoded = decode_rtp(packet)
        self.received.append(decoded.sequence)
        self.receiver.receive(decoded, now)
        return now >= self.receiver.feedback_at

    def poll_feedback(self, now: float, round_trip: float | None = None) -> Sequence[RtcpPacket]:
        return self.receiver.poll_feedback(self.sender.ssrc, now, MAXIMUM_WAIT, round_trip)


def converse(near: FeedbackEnd, far: FeedbackEnd, *, lose_every: int, delay: float = 0.01, packets: int = 500) -> None:
    """Let `near` send to `far`, which requests missing packets. `near` retransmits them."""
    for number in range(packets):
        now = number * 0.02
        packet = near.send(now)
        if number % lose_every == lose_every - 1:
            continue
        if far.receive(packet, now + delay):
            for feedback in far.poll_feedback(now + delay, 2 * delay):
                near.sender.receive_feedback(feedback, now + 2 * delay)
        while (again := near.sender.poll_retransmission()) is not None:
            far.receive(again, now + 3 * delay)


def test_lost_packets_are_recovered_and_losses_reported_to_both_sides() -> None:
    near, far = FeedbackEnd(1), FeedbackEnd(2)
    converse(near, far, lose_every=10)
    assert sorted(far.received) == list(range(499))
    figures, theirs = near.statistics, far.statistics
    assert figures["nack"] == {"resent": 49, "refused": 0, "requested": 0, "recovered": 0}
    assert theirs["nack"] == {"resent": 0, "refused": 0, "requested": 49, "recovered": 49}
    # A packet sent again carries its old number, so transport-wide feedback calls it late, not lost.
    assert figures["sent_feedback"]["lost"] <= 1
    assert figures["sent_feedback"]["received"] > 480


def test_losses_without_nack_are_not_recovered_but_reported() -> None:
    options = RtpOptions({TRANSPORT_SEQUENCE: 3}, "0", (TRANSPORT_CC,))
    near, far = FeedbackEnd(1, options), FeedbackEnd(2, options)
    converse(near, far, lose_every=10)
    assert near.statistics["sent_feedback"]["loss_percent"] == pytest.approx(10, abs=3)
    assert near.statistics["nack"] is None


@pytest.mark.parametrize(
    "options",
    [
        RtpOptions(),
        RtpOptions({TRANSPORT_SEQUENCE: 3}),
        RtpOptions(feedback=(TRANSPORT_CC,)),
    ],
)
def test_no_feedback_is_sent_that_was_not_negotiated(options: RtpOptions) -> None:
    near, far = FeedbackEnd(1, options), FeedbackEnd(2, options)
    for number in range(50):
        assert not far.receive(near.send(number * 0.02), number * 0.02)
    assert far.receiver.poll_timeout() == inf
    assert not far.poll_feedback(10.0)
    near.sender.receive_feedback(GenericNack(2, 1, (3,)), 1.0)
    near.sender.receive_feedback(TransportFeedback(2, 1, 0, 0, 0, (1,)), 1.0)
    assert near.sender.poll_retransmission() is None
    assert near.statistics == {"sent_feedback": None, "nack": None}


def test_feedback_on_the_last_packets_is_sent_by_a_timer() -> None:
    near, far = FeedbackEnd(1), FeedbackEnd(2)
    assert not far.receive(near.send(0.0), 0.0)
    due = far.receiver.poll_timeout()
    assert due == pytest.approx(0.11)
    (feedback,) = far.poll_feedback(due)
    assert isinstance(feedback, TransportFeedback)
    assert (feedback.sender_ssrc, feedback.media_ssrc, feedback.deltas) == (2, 1, (0,))
    assert far.receiver.poll_timeout() == inf


def test_nacks_of_another_source_and_reports_cause_no_retransmission() -> None:
    near = FeedbackEnd(1)
    near.send(0.0)
    near.sender.receive_feedback(GenericNack(2, 9, (0,)), 0.0)
    near.sender.receive_feedback(ReceiverReport(2), 0.0)
    assert near.sender.poll_retransmission() is None
    near.sender.receive_feedback(GenericNack(2, 1, (0,)), 0.0)
    assert near.sender.poll_retransmission() is not None


def test_a_nack_of_all_packets_is_answered_with_those_kept() -> None:
    near = FeedbackEnd(1)
    for number in range(200):
        near.send(number * 0.001)
    near.sender.receive_feedback(GenericNack(2, 1, tuple(range(65_000, 65_536)) + tuple(range(200)) * 5), 0.2)
    near.sender.receive_feedback(GenericNack(2, 1, tuple(range(199, 0, -1))), 0.2)
    assert len(list(iter(near.sender.poll_retransmission, None))) <= 64


def test_a_new_source_starts_without_missing_packets() -> None:
    far = FeedbackEnd(2)
    for ssrc, sequence in ((1, 5), (9, 700), (9, 701)):
        packet = RtpSender(ssrc, 111, sequence).packet(b"", 0)
        assert not far.receive(packet, 0.0)


def packet(ssrc: int, number: int) -> RtpPacket:
    return RtpPacket(False, 111, number & 0xFFFF, number * 960 & 0xFFFFFFFF, ssrc, b"x" * 80)


def test_a_bye_removes_its_sources() -> None:
    receiver = RtpReceiver(48_000)
    receiver.receive(packet(5, 1), 0.1)
    receiver.receive_rtcp(ReceiverReport(5))
    assert list(receiver.sources) == [5]
    receiver.receive_rtcp(Bye((5, 6)))
    assert not receiver.sources


def test_sources_are_bounded_and_the_least_recent_is_removed() -> None:
    receiver = RtpReceiver(48_000)
    for ssrc in range(10, 10 + MAX_SOURCES + 3):
        receiver.receive(packet(ssrc, 1), ssrc * 0.01)
    assert list(receiver.sources) == list(range(13, 13 + MAX_SOURCES))


def test_sequence_numbers_are_extended_across_wraps_and_reordering() -> None:
    receiver = RtpReceiver(48_000)
    numbers = [65_534, 65_535, 65_537, 65_536, 65_538, 68_000, 67_990, 70_000]
    assert [receiver.receive(packet(5, number), 0.0) for number in numbers] == numbers
