"""What a bad network does to datagrams, from a seed: the same seed does the same to the same datagrams.

It knows neither sockets nor clocks: whoever carries the datagrams asks when each of them arrives. The simulation asks
under virtual time, the router between network namespaces in real time.
"""

from collections.abc import Iterable
from math import inf
from random import Random
from typing import NamedTuple, Self

import msgspec


class Bursts(msgspec.Struct, frozen=True):
    """Losses that come together (Gilbert-Elliott): a good state and a bad one.

    Before each datagram the bad one is entered or left with these probabilities; in it datagrams are lost with
    probability `loss`.
    """

    enter: float
    leave: float
    loss: float = 1.0

    @classmethod
    def of_mean(cls, loss: float, length: float) -> Self:
        """Return bursts of `length` datagrams on average that lose the share `loss` of all datagrams."""
        leave = 1 / length
        return cls(loss * leave / (1 - loss), leave)


class Impairment(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one direction of a path does. Probabilities are from 0 to 1, times in seconds, `mtu` in bytes."""

    loss: float = 0.0
    bursts: Bursts | None = None
    duplication: float = 0.0
    reordering: float = 0.0
    delay: float = 0.0
    held_back: float = 0.03
    """A reordered datagram comes up to this much later, so that those behind it overtake it."""
    jitter: float = 0.0
    """Every datagram comes up to this much later."""
    jitter_reorders: bool = False
    """Whether jitter lets datagrams overtake each other, as over several paths, or not, as in one queue."""
    rate: float = inf
    """Bytes a second that the narrowest link of the path carries."""
    backlog: float = 0.2
    """Seconds of waiting in front of that link; datagrams that would wait longer are dropped."""
    mtu: int = 65_507
    blocked: bool = False
    """Whether UDP is blocked, as by a firewall; the router lets other protocols pass."""


PERFECT = Impairment()
CUT = Impairment(loss=1.0)


class Change(NamedTuple):
    """From the time `at` on, the path is like this."""

    at: float
    impairment: Impairment


def outage(at: float, seconds: float, otherwise: Impairment = PERFECT) -> tuple[Change, Change]:
    """Return the changes that lose everything for a while."""
    return Change(at, CUT), Change(at + seconds, otherwise)


class ImpairedLink:
    """One direction of a path. Times are on the clock of who asks, and never run backwards.

    It counts datagrams `sent`, those that did not arrive by reason, and those that came twice.
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
        """Add changes to those that are still to come."""
        self._changes = sorted([*self._changes, *changes], key=lambda change: change.at)

    def arrivals(self, size: int, now: float, *, udp: bool = True) -> list[float]:
        """Return when a datagram of `size` bytes sent at `now` arrives: never, once, or twice."""
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
        """Wait for the narrowest link; None when the queue in front of it is full."""
        if impairment.rate == inf:
            return now
        starts = max(now, self._free_at)
        if starts - now > impairment.backlog:
            return None
        self._free_at = starts + size / impairment.rate
        return self._free_at

    def _arrival(self, impairment: Impairment, departure: float) -> float:
        """Reordering holds single datagrams back; without it, and without jitter that reorders, they stay in order."""
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
        # A probability of zero draws nothing, so that adding an impairment leaves the others' draws alone.
        return probability > 0 and self._random.random() < probability
