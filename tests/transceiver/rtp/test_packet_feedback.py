"""Two ends that tell each other of single packets."""

from math import inf

import pytest

from antiphon_common.rtp_extensions import TRANSPORT_SEQUENCE
from antiphon_transceiver.rtcp import GenericNack, ReceiverReport, TransportFeedback
from antiphon_transceiver.rtp import PacketFeedback, RtpOptions, RtpSender, decode_rtp
from antiphon_transceiver.rtp.packet_feedback import NACK, TRANSPORT_CC

BOTH = RtpOptions({TRANSPORT_SEQUENCE: 3}, "0", (NACK, TRANSPORT_CC))
MAXIMUM_WAIT = 0.06


class End:
    """One end, whose packets travel as they are."""

    def __init__(self, ssrc: int, options: RtpOptions = BOTH) -> None:
        self.feedback = PacketFeedback(options, ssrc)
        self.sender = RtpSender(ssrc, 111, 0)
        self.heard: list[int] = []

    def say(self, now: float) -> bytes:
        packet = self.sender.packet(b"speech", 0, extension=self.feedback.extension(now))
        self.feedback.sent(packet, now)
        return packet

    def hear(self, packet: bytes, now: float) -> bool:
        decoded = decode_rtp(packet)
        self.heard.append(decoded.sequence)
        return self.feedback.received(decoded, now)


def converse(near: End, far: End, *, lose_every: int, delay: float = 0.01, packets: int = 500) -> None:
    """Let `near` talk to `far`, who tells what it misses; what it misses comes again."""
    for number in range(packets):
        now = number * 0.02
        packet = near.say(now)
        if number % lose_every == lose_every - 1:
            continue
        if far.hear(packet, now + delay):
            for told in far.feedback.poll(now + delay, MAXIMUM_WAIT, 2 * delay):
                near.feedback.receive(told, now + 2 * delay)
        while (again := near.feedback.poll_resend()) is not None:
            far.hear(again, now + 3 * delay)


def test_losses_are_made_good_and_known_to_both() -> None:
    near, far = End(1), End(2)
    converse(near, far, lose_every=10)
    assert sorted(far.heard) == list(range(499))
    figures, theirs = near.feedback.statistics(), far.feedback.statistics()
    assert figures["nack"] == {"resent": 49, "refused": 0, "requested": 0, "recovered": 0}
    assert theirs["nack"] == {"resent": 0, "refused": 0, "requested": 49, "recovered": 49}
    # A packet sent again carries its old number, so transport-wide feedback calls it late, not lost.
    assert figures["sent_feedback"]["lost"] <= 1
    assert figures["sent_feedback"]["received"] > 480


def test_without_nack_losses_stay_and_are_told() -> None:
    options = RtpOptions({TRANSPORT_SEQUENCE: 3}, "0", (TRANSPORT_CC,))
    near, far = End(1, options), End(2, options)
    converse(near, far, lose_every=10)
    assert near.feedback.statistics()["sent_feedback"]["loss_percent"] == pytest.approx(10, abs=3)
    assert near.feedback.statistics()["nack"] is None


@pytest.mark.parametrize(
    "options",
    [
        RtpOptions(),
        RtpOptions({TRANSPORT_SEQUENCE: 3}),
        RtpOptions(feedback=(TRANSPORT_CC,)),
    ],
)
def test_nothing_is_told_that_was_not_negotiated(options: RtpOptions) -> None:
    near, far = End(1, options), End(2, options)
    for number in range(50):
        assert not far.hear(near.say(number * 0.02), number * 0.02)
    assert far.feedback.poll_timeout() == inf
    assert not far.feedback.poll(10.0, MAXIMUM_WAIT, None)
    near.feedback.receive(GenericNack(2, 1, (3,)), 1.0)
    near.feedback.receive(TransportFeedback(2, 1, 0, 0, 0, (1,)), 1.0)
    assert near.feedback.poll_resend() is None
    assert near.feedback.statistics() == {"sent_feedback": None, "nack": None}


def test_feedback_on_the_last_packets_comes_by_itself() -> None:
    near, far = End(1), End(2)
    assert not far.hear(near.say(0.0), 0.0)
    due = far.feedback.poll_timeout()
    assert due == pytest.approx(0.11)
    (told,) = far.feedback.poll(due, MAXIMUM_WAIT, None)
    assert isinstance(told, TransportFeedback)
    assert (told.sender_ssrc, told.media_ssrc, told.deltas) == (2, 1, (0,))
    assert far.feedback.poll_timeout() == inf


def test_requests_for_another_source_and_other_packets_are_passed_over() -> None:
    near = End(1)
    near.say(0.0)
    near.feedback.receive(GenericNack(2, 9, (0,)), 0.0)
    near.feedback.receive(ReceiverReport(2), 0.0)
    assert near.feedback.poll_resend() is None
    near.feedback.receive(GenericNack(2, 1, (0,)), 0.0)
    assert near.feedback.poll_resend() is not None


def test_a_request_for_everything_is_answered_with_what_is_kept() -> None:
    near = End(1)
    for number in range(200):
        near.say(number * 0.001)
    near.feedback.receive(GenericNack(2, 1, tuple(range(65_000, 65_536)) + tuple(range(200)) * 5), 0.2)
    near.feedback.receive(GenericNack(2, 1, tuple(range(199, 0, -1))), 0.2)
    assert len(list(iter(near.feedback.poll_resend, None))) <= 64


def test_another_source_begins_without_holes() -> None:
    far = End(2)
    for ssrc, sequence in ((1, 5), (9, 700), (9, 701)):
        packet = RtpSender(ssrc, 111, sequence).packet(b"", 0)
        assert not far.hear(packet, 0.0)
