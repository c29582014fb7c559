from math import inf

import pytest

from antiphon_transceiver.rtp import NackGenerator, RetransmissionBuffer, RtpSender
from antiphon_transceiver.rtp.nack import (
    KEPT_PACKETS,
    MAX_AGE,
    MAX_MISSING,
    MAX_REQUESTS,
    MAX_RETRANSMISSIONS,
    RETRANSMISSION_INTERVAL,
)


def protected(sequence: int) -> bytes:
    return RtpSender(1, 111, 0).packet(b"", 0)[:2] + sequence.to_bytes(2, "big") + bytes(28)


def kept(first: int, count: int) -> RetransmissionBuffer:
    packets = RetransmissionBuffer()
    for number in range(first, first + count):
        packets.store(protected(number & 0xFFFF), (number - first) * 0.02)
    return packets


def test_the_latest_sent_packets_are_kept_across_the_wrap() -> None:
    packets = kept(65530, KEPT_PACKETS)
    for sequence in (65530, 65535, 0, 10):
        assert packets.take(sequence, 1.0) == protected(sequence)
    assert packets.take(65529, 1.0) is None
    assert packets.take(65530 + KEPT_PACKETS & 0xFFFF, 1.0) is None
    assert (packets.resent, packets.refused) == (4, 2)


def test_old_packets_are_not_retransmitted() -> None:
    packets = kept(0, 1)
    assert packets.take(0, MAX_AGE) is not None
    assert packets.take(0, MAX_AGE + 0.1) is None


def test_retransmissions_of_one_packet_are_bounded() -> None:
    packets = kept(0, 1)
    answers = [packets.take(0, number * RETRANSMISSION_INTERVAL / 4) for number in range(100)]
    assert [bool(answer) for answer in answers[:5]] == [True, False, False, False, True]
    assert sum(map(bool, answers)) == MAX_RETRANSMISSIONS


def missing_after(*sequences: int) -> NackGenerator:
    missing = NackGenerator()
    for sequence in sequences:
        missing.received(sequence, 0.0)
    return missing


@pytest.mark.parametrize(
    ("sequences", "asked"),
    [
        ((1, 2, 3), []),
        ((1, 3), [2]),
        ((65534, 65537), [65535, 65536]),
        ((1, 3, 2), []),
        ((1, 1, 2), []),
        ((5, 9, 7), [6, 8]),
        ((1, 2 + MAX_MISSING + 1), []),
        ((1, 40_000), []),
    ],
)
def test_gaps_are_requested_at_once(sequences: tuple[int, ...], asked: list[int]) -> None:
    missing = missing_after(*sequences)
    assert list(missing.poll(0.0, 0.06, None)) == asked
    assert (missing.due < inf) == bool(asked)


def test_a_missing_packet_is_requested_once_per_round_trip_while_it_can_arrive_in_time() -> None:
    missing, asked = missing_after(1, 3), []
    while missing.due < inf:
        now = missing.due
        asked += [now for _ in missing.poll(now, 0.1, 0.03)]
    assert asked == pytest.approx([0.0, 0.03, 0.06])
    assert missing.requested == 3
    assert list(missing_after(1, 3).poll(0.0, 0.06, 0.07)) == []


def test_requests_for_one_packet_are_bounded() -> None:
    missing = missing_after(1, 3)
    asked = [sequence for step in range(1000) for sequence in missing.poll(step * 0.01, 100.0, None)]
    assert asked == [2] * MAX_REQUESTS


def test_a_packet_that_arrives_after_its_request_counts_as_recovered() -> None:
    missing = missing_after(1, 4)
    missing.received(2, 0.0)
    assert list(missing.poll(0.0, 0.06, None)) == [3]
    missing.received(3, 0.02)
    assert (missing.requested, missing.recovered) == (1, 1)
    assert list(missing.poll(0.05, 0.06, None)) == []
    assert missing.due == inf


def test_a_new_stream_has_no_missing_packets_of_the_previous_one() -> None:
    missing = missing_after(1, 3)
    missing.restart()
    missing.received(500, 0.0)
    assert list(missing.poll(0.0, 0.06, None)) == []
