"""What a bad network does to datagrams, from a seed: the same seed does the same to the same datagrams.

It knows neither sockets nor clocks: whoever carries the datagrams asks when each of them arrives.
"""

from random import Random

import msgspec


class Impairment(msgspec.Struct, frozen=True):
    """What one direction of a path does. Probabilities are from 0 to 1, times in seconds, `mtu` in bytes."""

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    delay: float = 0.0
    held_back: float = 0.03
    """A reordered datagram comes up to this much later, so that those behind it overtake it."""
    mtu: int = 65_507


PERFECT = Impairment()


class ImpairedLink:
    """One direction of a path."""

    def __init__(self, impairment: Impairment, random: Random) -> None:
        self.impairment = impairment
        self._random = random
        self.sent = 0
        self.lost = 0
        self.too_long = 0
        """Datagrams above the MTU, which are lost as well."""

    def arrivals(self, size: int, now: float) -> list[float]:
        """Return when a datagram of `size` bytes sent at `now` arrives: never, once, or twice."""
        self.sent += 1
        if size > self.impairment.mtu:
            self.too_long += 1
            return []
        if self._happens(self.impairment.loss):
            self.lost += 1
            return []
        copies = 2 if self._happens(self.impairment.duplication) else 1
        return [now + self._transit() for _ in range(copies)]

    def _transit(self) -> float:
        late = self._random.uniform(0, self.impairment.held_back) if self._happens(self.impairment.reordering) else 0.0
        return self.impairment.delay + late

    def _happens(self, probability: float) -> bool:
        # A probability of zero draws nothing, so that adding an impairment leaves the others' draws alone.
        return probability > 0 and self._random.random() < probability
