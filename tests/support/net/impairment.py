"""A model of an impaired network. The same seed gives the same result for the same datagrams.

It has neither sockets nor clocks: its user asks for the arrival times of each datagram. The simulation uses it under
virtual time, the router between network namespaces in real time.
"""

from collections.abc import Iterable
from math import inf
from random import Random
from typing import NamedTuple, Self

import msgspec


class Bursts(msgspec.Struct, frozen=True):
    """Burst losses of the Gilbert-Elliott model, which has a good and a bad state.

    Before each datagram the bad state is entered or left with these probabilities. In the bad state datagrams are lost
    with probability `loss`.
    """

    enter: float
    leave: float
    loss: float = 1.0

    @classmethod
    def of_mean(cls, loss: float, length: float) -> Self:
        """Return bursts with a mean length of `length` datagrams. They lose the share `loss` of all datagrams."""
        leave = 1 / length
        return cls(loss * leave / (1 - loss), leave)


class Impairment(msgspec.Struct, frozen=True, omit_defaults=True):
    """Properties of one direction of a path. Probabilities are from 0 to 1, times in seconds, `mtu` in bytes."""

    loss: float = 0.0
    bursts: Bursts | None = None
    duplication: float = 0.0
    reordering: float = 0.0
    delay: float = 0.0
    held_back: float = 0.03
    """Largest additional delay of a reordered datagram, so that later datagrams overtake it."""
    jitter: float = 0.0
    """Largest additional delay of every datagram."""
    jitter_reorders: bool = False
    """Whether jitter reorders datagrams, as several paths do, or preserves their order, as one queue does."""
    rate: float = inf
    """Bytes per second of the narrowest link of the path."""
    backlog: float = 0.2
    """Longest queueing delay at that link, in seconds. Datagrams that would wait longer are dropped."""
    mtu: int = 65_507
    blocked: bool = False
    """Whether UDP is blocked, as by a firewall; the router lets other protocols pass."""


PERFECT = Impairment()
CUT = Impairment(loss=1.0)


class Change(NamedTuple):
    """The impairment of a path from the time `at` on."""

    at: float
    impairment: Impairment


def outage(at: float, seconds: float, otherwise: Impairment = PERFECT) -> tuple[Change, Change]:
    """Return changes that drop all datagrams for `seconds`."""
    return Change(at, CUT), Change(at + seconds, otherwise)


class ImpairedLink:
    """One direction of a path. Times are on the caller's clock and never run backwards.

    It counts the datagrams sent, those dropped, by reason, and those duplicated.
    """

    def __init__(self, impairment: Impairment, random: Random, changes: Iterable[Change] = ()) -> None:
        self.impairment = impairment
        self.sent = 0
        self.lost = 0
        self.too_long = 0
        self.overflowed = 0
        self.blocked = 0
        self.duplicated = 0
        self._random = random
        self._changes = sorted(changes, key=lambda change: change.at)
        self._bad = False
        self._free_at = 0.0
        self._last_arrival = 0.0

    def change(self, changes: Iterable[Change]) -> None:
        """Schedule more changes."""
        self._changes = sorted([*self._changes, *changes], key=lambda change: change.at)

    def arrivals(self, size: int, now: float, *, udp: bool = True) -> list[float]:
        """Return the arrival times of a datagram of `size` bytes sent at `now`: none, one, or two."""
        while self._changes and self._changes[0].at <= now:
            self.impairment = self._changes.pop(0).impairment
        impairment = self.impairment
        self.sent += 1
        if impairment is PERFECT:
            return [max(now, self._last_arrival)]
        if impairment.blocked and udp:
            self.blocked += 1
            return []
        if size > impairment.mtu:
            self.too_long += 1
            return []
        if self._is_lost(impairment):
            self.lost += 1
            return []
        departure = self._depart(impairment, size, now)
        if departure is None:
            self.overflowed += 1
            return []
        if self._happens(impairment.duplication):
            self.duplicated += 1
            return [self._arrival(impairment, departure), self._arrival(impairment, departure)]
        return [self._arrival(impairment, departure)]

    def _is_lost(self, impairment: Impairment) -> bool:
        bursts = impairment.bursts
        if bursts is not None:
            self._bad = self._happens(1 - bursts.leave if self._bad else bursts.enter)
            if self._bad and self._happens(bursts.loss):
                return True
        return self._happens(impairment.loss)

    def _depart(self, impairment: Impairment, size: int, now: float) -> float | None:
        """Return when a datagram leaves the narrowest link, or None when its queue is full."""
        if impairment.rate == inf:
            return now
        starts = max(now, self._free_at)
        if starts - now > impairment.backlog:
            return None
        self._free_at = starts + size / impairment.rate
        return self._free_at

    def _arrival(self, impairment: Impairment, departure: float) -> float:
        """Return the arrival time of a datagram. Only reordering, and jitter that reorders, change the order."""
        arrival = departure + impairment.delay
        if self._happens(impairment.reordering):
            return arrival + self._random.uniform(0, impairment.held_back)
        if impairment.jitter:
            arrival += self._random.uniform(0, impairment.jitter)
            if impairment.jitter_reorders:
                return arrival
        self._last_arrival = max(arrival, self._last_arrival)
        return self._last_arrival

    def _happens(self, probability: float) -> bool:
        # A probability of zero takes no random number, so that an added impairment does not change the others.
        return probability > 0 and self._random.random() < probability
