from collections import Counter
from random import Random

import pytest

from antiphon_common.control import LinkInfo, Load
from antiphon_common.registry import LEASE_SECONDS, Registered
from antiphon_signaling.fleet import FORGET_SECONDS, MAX_FALLBACK_ATTEMPTS, Fleet

A, B, C = "http://10.0.0.1:1", "http://10.0.0.2:1", "http://10.0.0.3:1"
NAME = "http://transceiver-0:1"
EMPTY, HALF = Load(0, 10), Load(5, 10)


def link_of(url: str) -> LinkInfo:
    return LinkInfo(0, (url.removeprefix("http://"),))


def registered(**loads: Load) -> list[Registered]:
    return [Registered(url, link_of(url), load) for url, load in loads.items()]


@pytest.fixture
def random() -> Random:
    return Random(7)


def fleet_of(random: Random, **loads: Load) -> Fleet:
    fleet = Fleet([], random.randrange)
    fleet.list_leases(registered(**loads), 0.0)
    return fleet


def test_calls_spread_over_transceivers_by_their_capacity(random: Random) -> None:
    loads = {f"t{number}": Load(0, 10 if number % 2 else 20) for number in range(20)}
    fleet = fleet_of(random, **loads)
    placed = dict.fromkeys(loads, 0)
    for _ in range(200):
        url = next(fleet.order())
        fleet.taken(url)
        placed[url] += 1
    fullness = [placed[url] / load.capacity for url, load in loads.items()]
    assert 0.4 <= min(fullness) <= max(fullness) <= 0.9, fullness


def test_full_transceivers_are_tried_last_up_to_a_limit(random: Random) -> None:
    full = {f"full{number}": Load(10, 10) for number in range(10)}
    fleet = fleet_of(random, **full, open=Load(9, 10), leaving=Load(0, 10, draining=True), half=Load(5, 10))
    order = list(fleet.order())
    assert order[:2] == ["half", "open"] or order[:2] == ["open", "half"]
    assert len(order) == 2 + MAX_FALLBACK_ATTEMPTS
    assert all(url in full for url in order[2:])


def test_calls_in_placement_count_as_placed(random: Random) -> None:
    fleet = fleet_of(random, one=Load(9, 10), two=Load(0, 1))
    with fleet.asking("two"):
        assert next(fleet.order()) == "one"
    fleet.refused("one", draining=False)
    assert list(fleet.order()) == ["two", "one"]
    fleet.answered("one", link_of("one"), Load(1, 10))
    assert set(fleet.order()) == {"one", "two"}


def test_a_draining_transceiver_receives_calls_again_once_it_reports_so(random: Random) -> None:
    fleet = Fleet([A, B], random.randrange)
    fleet.refused(A, draining=True)
    assert list(fleet.order()) == [B, A]
    fleet.answered(A, link_of(A), EMPTY)
    fleet.answered(B, link_of(B), HALF)
    assert list(fleet.order()) == [A, B]


def test_a_lease_avoids_a_request_and_its_end_removes_a_transceiver_that_does_not_answer(random: Random) -> None:
    fleet = Fleet([A], random.randrange)
    fleet.list_leases(registered(**{B: EMPTY, C: EMPTY}), 10.0)
    assert set(fleet.urls) == {A, B, C}
    assert fleet.due(10.0) == [A]
    fleet.list_leases(registered(**{B: EMPTY}), 11.0)
    assert fleet.due(11.0) == [A, C]
    assert fleet.unanswered(C, 11.0)
    assert set(fleet.urls) == {A, B}
    assert fleet.unanswered(A, 11.0)
    assert not fleet.unanswered(A, 12.0)
    assert list(fleet.order()) == [B, A]


def test_members_stay_and_are_asked_while_redis_is_down(random: Random) -> None:
    fleet = Fleet([], random.randrange)
    fleet.list_leases(registered(**{B: EMPTY, C: EMPTY}), 10.0)
    gone = 10.0 + LEASE_SECONDS
    assert fleet.due(gone) == [B, C]
    fleet.answered(B, link_of(B), EMPTY)
    fleet.unanswered(C, gone)
    assert list(fleet.order()) == [B, C]
    fleet.unanswered(C, gone + FORGET_SECONDS)
    assert fleet.urls == (B,)


def test_a_transceiver_with_a_name_and_an_address_counts_once(random: Random) -> None:
    fleet = Fleet([NAME], random.randrange)
    fleet.list_leases(registered(**{A: EMPTY, B: EMPTY, C: EMPTY}), 10.0)
    fleet.answered(NAME, link_of(A), EMPTY)
    assert sorted(fleet.urls) == sorted([NAME, B, C])
    first: Counter[str] = Counter()
    for _ in range(600):
        order = list(fleet.order())
        assert sorted(order) == sorted([NAME, B, C])
        first[order[0]] += 1
    assert min(first.values()) >= 150, first


def test_a_name_stays_without_a_lease_and_an_address_replaces_a_silent_name(random: Random) -> None:
    fleet = Fleet([NAME], random.randrange)
    fleet.list_leases(registered(**{A: EMPTY, B: HALF}), 10.0)
    fleet.unanswered(NAME, 10.0)
    assert list(fleet.order()) == [A, B, NAME]
    fleet.answered(NAME, link_of(A), EMPTY)
    assert list(fleet.order()) == [NAME, B]
    fleet.unanswered(NAME, 11.0)
    assert list(fleet.order()) == [A, B]
    assert fleet.urls == (A, B)
    fleet.answered(NAME, link_of(A), EMPTY)
    gone = 10.0 + LEASE_SECONDS
    assert fleet.due(gone) == [NAME, A, B]
    fleet.unanswered(A, gone + FORGET_SECONDS)
    fleet.list_leases(registered(**{B: HALF}), gone + FORGET_SECONDS)
    assert list(fleet.order()) == [NAME, B]


def test_a_name_that_resolves_to_another_transceiver_is_followed(random: Random) -> None:
    fleet = Fleet([NAME], random.randrange)
    fleet.list_leases(registered(**{A: EMPTY}), 10.0)
    fleet.answered(NAME, link_of(A), EMPTY)
    fleet.list_leases(registered(**{B: EMPTY}), 20.0)
    fleet.unanswered(A, 20.0)
    fleet.answered(NAME, link_of(B), EMPTY)
    assert fleet.urls == (NAME,)
