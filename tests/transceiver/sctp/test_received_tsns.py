"""The received TSNs, and the time at which a SACK is due."""

from random import Random

import pytest

from antiphon_transceiver.sctp.chunks import Sack
from antiphon_transceiver.sctp.received_tsns import MAX_AHEAD, MAX_RANGES, ReceivedTsns
from antiphon_transceiver.sctp.rto import MAX_SACK_DELAY


def receive(tsns: ReceivedTsns, *numbers: int, now: float = 0.0) -> None:
    """Receive a packet for each number."""
    for number in numbers:
        tsn = tsns.extend(number)
        if tsns.is_new(tsn):
            tsns.add(tsn)
        tsns.packet_received(now, at_once=False)


def test_gaps_and_duplicates_are_reported_once() -> None:
    tsns = ReceivedTsns(10)
    receive(tsns, 10, 12, 13, 16, 13, 10)
    assert tsns.sack(5000, 1000) == Sack(10, 5000, ((2, 3), (6, 6)), (13, 10))
    receive(tsns, 11)
    assert tsns.sack(5000, 1000) == Sack(13, 5000, ((3, 3),))


def test_tsns_wrap() -> None:
    tsns = ReceivedTsns(0xFFFFFFFE)
    receive(tsns, 0xFFFFFFFE, 1, 0xFFFFFFFF)
    assert tsns.sack(0, 1000) == Sack(0xFFFFFFFF, 0, ((2, 2),))
    receive(tsns, 0)
    assert tsns.sack(0, 1000) == Sack(1, 0)


def test_received_tsns_do_not_depend_on_the_order_of_arrival() -> None:
    for seed in range(50):
        random = Random(seed)
        numbers = [number for number in range(60) for _ in range(random.randint(1, 2))]
        random.shuffle(numbers)
        tsns = ReceivedTsns(0)
        receive(tsns, *numbers)
        assert (tsns.cumulative, tsns.highest) == (59, 59), f"seed {seed}"


def is_due(tsns: ReceivedTsns) -> bool:
    return tsns.due


def test_a_sack_is_due_at_once_for_every_second_packet_and_later_for_one() -> None:
    tsns = ReceivedTsns(0)
    receive(tsns, 0)
    assert is_due(tsns)  # the first packet: the sender has no round trip yet
    tsns.sack(0, 100)
    receive(tsns, 1, now=1.0)
    assert not is_due(tsns)
    assert tsns.deadline == 1.0 + MAX_SACK_DELAY
    tsns.handle_timeout(1.0 + MAX_SACK_DELAY)
    assert is_due(tsns)
    tsns.sack(0, 100)
    receive(tsns, 2, 3, now=2.0)
    assert is_due(tsns)


@pytest.mark.parametrize("number", [1, 4], ids=["again", "behind a hole"])
def test_a_sack_is_due_at_once_for_a_packet_out_of_order(number: int) -> None:
    tsns = ReceivedTsns(0)
    receive(tsns, 0, 1)
    tsns.sack(0, 100)
    receive(tsns, number)
    assert tsns.due


def test_skipping_joins_the_ranges_that_it_reaches() -> None:
    tsns = ReceivedTsns(0)
    receive(tsns, 0, 3, 4, 7)
    assert tsns.skip_to(2)
    assert tsns.cumulative == 4
    assert not tsns.skip_to(3)


def test_ranges_are_bounded_and_the_next_tsn_always_has_room() -> None:
    tsns = ReceivedTsns(0)
    assert not tsns.has_room(MAX_AHEAD)
    for number in range(1, 2 * MAX_RANGES + 2, 2):
        if tsns.has_room(number):
            tsns.add(number)
    assert not tsns.has_room(2 * MAX_RANGES + 5)
    assert tsns.has_room(0)


def test_a_sack_fits_the_remaining_space() -> None:
    tsns = ReceivedTsns(0)
    receive(tsns, *range(1, 100, 2), *range(1, 40, 2))
    assert len(tsns.sack(0, 64).encode()) == 64


@pytest.mark.parametrize("seed", range(20))
def test_ranges_equal_those_of_a_plain_set(seed: int) -> None:
    """New, duplicate and skipped TSNs in any order, compared with a set of all."""
    print("seed", seed)
    random, tsns, came, cumulative = Random(seed), ReceivedTsns(0), set[int](), -1
    for _ in range(400):
        number = cumulative + random.randrange(-3, 40)
        if random.random() < 0.05:
            assert tsns.skip_to(number) == (number > cumulative)
            cumulative = max(cumulative, number)
        else:
            is_new = number > cumulative and number not in came
            assert tsns.is_new(number) == is_new
            if is_new:
                tsns.add(number)
                came.add(number)
        while cumulative + 1 in came:
            cumulative += 1
        came = {number for number in came if number > cumulative}
        assert (tsns.cumulative, tsns.highest) == (cumulative, max(came, default=cumulative))
        named = {cumulative + offset for first, last in tsns.sack(0, 1000).gaps for offset in range(first, last + 1)}
        assert named == came
