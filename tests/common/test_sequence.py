import random

import pytest

from antiphon_common.sequence import (
    ReplayWindow,
    difference16,
    difference32,
    estimate_index,
    extend16,
    extend32,
)


@pytest.mark.parametrize(
    ("later", "earlier", "expected"),
    [(1, 0, 1), (0, 65535, 1), (65535, 0, -1), (0x7FFF, 0, 0x7FFF), (0x8000, 0, -0x8000), (5, 5, 0)],
)
def test_differences_of_sequence_numbers_wrap(later: int, earlier: int, expected: int) -> None:
    assert difference16(later, earlier) == expected
    assert difference32(later << 16, earlier << 16) == expected << 16


@pytest.mark.parametrize(
    ("value", "near", "expected"),
    [(0, 0xFFFF, 0x10000), (0xFFFF, 0x10000, 0xFFFF), (0xFFFF, 0, -1), (7, 0x50006, 0x50007), (6, 0x50006, 0x50006)],
)
def test_sequence_numbers_are_extended_to_the_nearest_value(value: int, near: int, expected: int) -> None:
    assert extend16(value, near) == expected
    assert extend32(value << 16, near << 16) == expected << 16


@pytest.mark.parametrize(
    ("sequence", "highest", "expected"),
    [
        (0, -1, 0),
        (65535, -1, 65535),
        (65535, 3, 65535),  # there is no rollover counter below zero
        (0, 65535, 0x10000),
        (65535, 0x10000, 65535),
        (2, 0x2FFFF, 0x30002),
        (0x8000, 0x10000, 0x18000),  # 2^15 away: the same rollover counter
        (0x8001, 0x10000, 0x08001),
        (0x0000, 0x18000, 0x10000),
        (0x0000, 0x18001, 0x20000),
    ],
)
def test_the_index_is_estimated_as_in_rfc_3711(sequence: int, highest: int, expected: int) -> None:
    assert estimate_index(sequence, highest) == expected


def test_the_estimated_index_follows_a_stream_through_many_wraps() -> None:
    rng = random.Random(1)
    highest = -1
    for index in range(0, 400_000, 97):
        late = max(0, index - rng.randrange(3000))
        assert estimate_index(index & 0xFFFF, highest) == index
        highest = index
        assert estimate_index(late & 0xFFFF, highest) == late


@pytest.mark.parametrize("size", [64, 128])
def test_a_replay_window_accepts_each_index_once(size: int) -> None:
    window = ReplayWindow(size)
    for index in (0, 1, 5, 3, size + 2):
        assert window.check(index)
        window.accept(index)
        assert not window.check(index)
    assert window.highest == size + 2
    assert window.check(4)
    assert not window.check(3)
    assert not window.check(2)  # too old to know


def test_a_replay_window_accepts_a_jump_of_any_width() -> None:
    window = ReplayWindow()
    window.accept(1)
    window.accept((1 << 48) - 1)
    assert window.check((1 << 48) - 2)
    assert not window.check((1 << 48) - 1)
    assert not window.check(1)


def test_a_replay_window_agrees_with_a_set() -> None:
    rng = random.Random(2)
    window, seen, highest = ReplayWindow(), set[int](), -1
    for step in range(5000):
        index = max(0, step + rng.randrange(-100, 20))
        fresh = index not in seen and index > highest - 64
        assert window.check(index) is fresh
        if fresh:
            window.accept(index)
            seen.add(index)
            highest = max(highest, index)


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("highest", [0, 5, 63, 1000])
def test_a_replay_window_that_starts_at_an_index_accepts_only_higher_ones(size: int, highest: int) -> None:
    window = ReplayWindow(size, highest=highest)
    assert not any(window.check(index) for index in range(highest + 1))
    assert window.check(highest + 1)
    window.accept(highest + 3)
    assert [index for index in range(highest + 5) if window.check(index)] == [highest + 1, highest + 2, highest + 4]
