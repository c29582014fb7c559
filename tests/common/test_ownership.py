"""The ownership of paths, and answers that do not change it."""

import pytest

from antiphon_common.ownership import PROVISIONAL_SECONDS, OwnershipTable

KEY, OTHER = b"path one", b"path two"


def test_a_provisional_path_belongs_to_the_owner_of_the_newest_answer() -> None:
    table: OwnershipTable[str] = OwnershipTable()
    assert table.lookup(KEY) is None
    assert table.answered(KEY, "a", 0.0)
    assert table.answered(KEY, "b", 1.0)
    assert table.lookup(KEY) == "b"
    assert not table.is_confirmed(KEY, "b")


def test_a_confirmed_path_stays_until_it_is_released() -> None:
    table: OwnershipTable[str] = OwnershipTable()
    table.confirm(KEY, "a", 0.0)
    assert not table.may_answer(KEY, "b", 1000.0)
    assert not table.answered(KEY, "b", 1000.0)
    assert not table.confirm(KEY, "b", 1000.0)
    assert not table.release(KEY, "b")
    table.expire(1000.0)
    assert table.is_confirmed(KEY, "a")
    assert table.counters.refused == 2
    assert table.release(KEY, "a")
    assert table.answered(KEY, "b", 1001.0)
    assert table.lookup(KEY) == "b"


def test_a_confirmation_precedes_a_newer_answer() -> None:
    table: OwnershipTable[str] = OwnershipTable()
    table.answered(KEY, "a", 0.0)
    table.answered(KEY, "b", 1.0)
    assert table.confirm(KEY, "a", 2.0)
    assert not table.answered(KEY, "b", 2.0)
    assert table.is_confirmed(KEY, "a")


def test_the_path_of_a_silent_owner_can_be_taken_over_if_allowed() -> None:
    table: OwnershipTable[str] = OwnershipTable(takeover_seconds=10)
    table.confirm(KEY, "a", 0.0)
    table.answered(KEY, "a", 5.0)
    assert not table.answered(KEY, "b", 14.9)
    assert table.answered(KEY, "b", 15.0)
    assert table.lookup(KEY) == "b"
    assert table.counters.taken == 1


def test_provisional_paths_expire_by_their_last_answer() -> None:
    table: OwnershipTable[str] = OwnershipTable()
    table.answered(KEY, "a", 0.0)
    table.answered(OTHER, "a", 1.0)
    table.answered(KEY, "a", 2.0)
    table.expire(1.0 + PROVISIONAL_SECONDS)
    assert (table.lookup(KEY), table.lookup(OTHER)) == ("a", None)
    table.expire(2.0 + PROVISIONAL_SECONDS)
    assert len(table) == 0
    assert table.counters.expired == 2


def test_confirmed_paths_expire_after_silence_if_allowed() -> None:
    table: OwnershipTable[str] = OwnershipTable(silent_seconds=60)
    table.confirm(KEY, "a", 0.0)
    table.confirm(OTHER, "a", 1.0)
    table.expire(60.0)
    assert (table.lookup(KEY), table.lookup(OTHER)) == (None, "a")


def test_a_path_transferred_counts_as_used_at_that_moment() -> None:
    table: OwnershipTable[str] = OwnershipTable(silent_seconds=60)
    table.confirm(KEY, "a", 0.0)
    table.answered(OTHER, "a", 0.0)
    table.transfer("a", "b", 55.0)
    table.expire(60.0)
    assert (table.lookup(KEY), table.lookup(OTHER)) == ("b", "b")
    table.expire(55.0 + 60.0)
    assert len(table) == 0


@pytest.mark.parametrize("confirmed", [False, True])
def test_a_flood_evicts_the_oldest_path_of_its_own_call_only(confirmed: bool) -> None:
    table: OwnershipTable[str] = OwnershipTable(max_provisional=3, max_confirmed=3)
    write = table.confirm if confirmed else table.answered
    write(KEY, "neighbour", 0.0)
    for number in range(100_000):
        assert write(number.to_bytes(4, "big"), "flooded", 0.0)
    assert len(table) == 4
    assert table.lookup(KEY) == "neighbour"
    assert table.lookup((99_999).to_bytes(4, "big")) == "flooded"
    assert table.counters.evicted == 100_000 - 3


def test_all_paths_of_one_owner_can_be_released() -> None:
    table: OwnershipTable[str] = OwnershipTable()
    table.confirm(KEY, "a", 0.0)
    table.answered(OTHER, "a", 0.0)
    table.answered(b"third", "b", 0.0)
    table.release_all("a")
    table.release_all("nobody")
    assert len(table) == 1
    assert table.lookup(b"third") == "b"


def test_provisional_paths_that_are_transferred_are_bounded_too() -> None:
    table: OwnershipTable[str] = OwnershipTable(max_provisional=3, max_confirmed=2)
    for owner in ("a", "b"):
        for number in range(3):
            table.answered(b"provisional %d of %s" % (number, owner.encode()), owner, 0.0)
        for number in range(2):
            table.confirm(b"confirmed %d of %s" % (number, owner.encode()), owner, 0.0)
    table.transfer("a", "b", 1.0)
    assert (len(table), table.confirmed) == (5, 2)
    assert table.counters.evicted == 5
