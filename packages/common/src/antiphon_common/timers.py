"""A queue of deadlines for any number of cores, so that a process needs one timer and no task per session."""

import heapq
from collections.abc import Hashable
from itertools import count
from math import inf
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

STALE_ENTRIES = 1024
"""Stale heap entries are removed once there are this many of them and they are the majority."""


class DeadlineQueue(Generic[K]):
    """Keeps one deadline per key, in seconds on the caller's clock. `set` adds one, `pop_due` takes the due keys.

    Sessions move their deadline with almost every packet, mostly to later. That costs one dict write: the heap keeps
    an earlier time of the key, and a key that comes up too early is pushed again with its deadline.
    """

    __slots__ = ("_deadlines", "_heap", "_order", "_queued")

    def __init__(self) -> None:
        self._deadlines: dict[K, float] = {}
        self._queued: dict[K, float] = {}  # time of the one valid heap entry of each key, at most its deadline
        self._heap: list[tuple[float, int, K]] = []
        self._order = count()

    def __len__(self) -> int:
        return len(self._deadlines)

    def set(self, key: K, deadline: float) -> None:
        """Set or move the deadline of `key`; infinity removes it."""
        if deadline == inf:
            self._deadlines.pop(key, None)
            self._sweep()
            return
        self._deadlines[key] = deadline
        queued = self._queued.get(key)
        if queued is None or deadline < queued:
            self._push(key, deadline)
            self._sweep()

    def next(self) -> float:
        """Return the earliest deadline; infinity if there is none."""
        self._settle()
        return self._heap[0][0] if self._heap else inf

    def pop_due(self, now: float) -> list[K]:
        """Remove and return the keys due by `now`, earliest first."""
        due = []
        while self.next() <= now:
            key = heapq.heappop(self._heap)[2]
            del self._queued[key], self._deadlines[key]
            due.append(key)
        return due

    def _push(self, key: K, deadline: float) -> None:
        self._queued[key] = deadline
        heapq.heappush(self._heap, (deadline, next(self._order), key))

    def _settle(self) -> None:
        """Remove or move stale entries until the first entry of the heap is valid."""
        while self._heap:
            when, _, key = self._heap[0]
            if self._queued.get(key) == when:
                deadline = self._deadlines.get(key)
                if deadline == when:
                    return
                del self._queued[key]
                if deadline is not None:
                    self._queued[key] = deadline
                    heapq.heapreplace(self._heap, (deadline, next(self._order), key))
                    continue
            heapq.heappop(self._heap)

    def _sweep(self) -> None:
        """Rebuild the heap when removed and moved keys have left too many stale entries."""
        if len(self._heap) > STALE_ENTRIES + 2 * len(self._deadlines):
            self._queued = dict(self._deadlines)
            self._heap = [(deadline, next(self._order), key) for key, deadline in self._deadlines.items()]
            heapq.heapify(self._heap)
