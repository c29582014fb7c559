import heapq
import random
from math import inf

import pytest

from antiphon_common import timers
from antiphon_common.timers import DeadlineQueue
from support.sim.memory_audit import MemoryAudit


def test_keys_are_returned_in_order_of_their_deadlines() -> None:
    queue = DeadlineQueue[str]()
    for key, deadline in [("b", 2.0), ("a", 1.0), ("c", 3.0), ("also b", 2.0)]:
        queue.set(key, deadline)
    assert queue.next() == 1.0
    assert queue.pop_due(2.0) == ["a", "b", "also b"]
    assert (queue.next(), len(queue)) == (3.0, 1)
    assert queue.pop_due(2.9) == []


@pytest.mark.parametrize("moves", [[5.0, 9.0], [9.0, 5.0, 9.0], [9.0, inf, 9.0], [5.0, 2.0, 9.0], [2.0, inf, 9.0]])
def test_the_latest_deadline_of_a_key_is_used(moves: list[float]) -> None:
    queue = DeadlineQueue[str]()
    for deadline in moves:
        queue.set("call", deadline)
    assert queue.pop_due(8.9) == []
    assert queue.next() == 9.0
    assert queue.pop_due(9.0) == ["call"]
    assert queue.pop_due(100.0) == []
    assert queue.next() == inf


def test_removing_a_missing_deadline_has_no_effect() -> None:
    queue = DeadlineQueue[str]()
    queue.set("nobody", inf)
    assert queue.next() == inf


def test_a_later_deadline_does_not_change_the_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = DeadlineQueue[int]()
    queue.set(1, 1.0)
    for name in ("heappush", "heapreplace", "heapify"):
        monkeypatch.delattr(heapq, name)
    for step in range(1000):
        queue.set(1, 1.0 + step)


def test_stale_heap_entries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "STALE_ENTRIES", 16)
    queue = DeadlineQueue[int]()
    for call in range(10_000):
        queue.set(call, 1e6)
        queue.set(call, inf)
        assert MemoryAudit([queue]).largest <= 17


@pytest.mark.parametrize("seed", range(5))
def test_the_deadline_queue_agrees_with_a_dict(seed: int) -> None:
    choose = random.Random(seed)
    queue, model, now = DeadlineQueue[int](), dict[int, float](), 0.0
    for _ in range(5000):
        key = choose.randrange(20)
        deadline = inf if choose.random() < 0.2 else now + choose.choice((0.0, 0.1, 1.0, 5.0))
        queue.set(key, deadline)
        model.pop(key, None)
        if deadline < inf:
            model[key] = deadline
        now += choose.random() / 10
        due = sorted((when, key) for key, when in model.items() if when <= now)
        assert sorted(queue.pop_due(now)) == sorted(key for _, key in due), f"seed {seed}"
        for _, key in due:
            del model[key]
        assert queue.next() == min(model.values(), default=inf), f"seed {seed}"
