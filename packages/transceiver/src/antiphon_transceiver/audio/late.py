"""Tells packets that are late from a clock that is wrong."""

from typing import Final, NamedTuple

PAUSE: Final = 0.5
"""Seconds without a packet after which its sender may well have stopped its timestamps, as push-to-talk devices do."""

STEADY: Final = 0.01
"""Seconds that transits may differ by and count as equal. Where a stalled network empties its queue they fall by up to
a packet's whole duration from one to the next."""

PATH_CHANGED_AFTER: Final = 0.5
"""Seconds of late packets only, without their transit falling, after which the path has become longer for good."""

RESUMED_AFTER: Final = 0.1
"""Seconds of late packets with equal transits after a pause that show it was the sender's. A queue that empties within
its jitter is over by then."""

MAX_JITTER: Final = 0.1
"""Seconds by which transits on a longer path may still differ upwards; a stall raises them by more."""

MIN_RUN: Final = 5
"""Packets that make a run at least."""

MAX_SUSPECTS: Final = 64
"""Late packets kept in case they turn out to be timely; of 20 ms each, three matter."""


class LatePacket(NamedTuple):
    """A packet as it was pushed, with its arrival and transit."""

    sequence: int
    timestamp: int
    payload: bytes
    arrived: float
    transit: float


class LateRun:
    """The late packets since the last timely one."""

    __slots__ = ("_fast_until", "_lowest", "_since", "dropped", "packets")

    def __init__(self) -> None:
        self.packets: list[LatePacket] = []
        self.dropped = 0
        """How many late packets were given up for good."""
        self._since = 0.0
        self._lowest = 0.0
        self._fast_until = 0.0

    def add(self, packet: LatePacket, last_arrival: float) -> bool:
        """Take a late packet; return True when the run shows that the clock is wrong.

        After a pause that takes `RESUMED_AFTER` of equal transits; otherwise the path has to be longer for
        `PATH_CHANGED_AFTER`.
        """
        if packet.arrived - last_arrival >= PAUSE:
            self.drop()
            self._fast_until = packet.arrived + PAUSE
        resumed = packet.arrived < self._fast_until
        if self.packets:
            change = packet.transit - self._lowest
            if change < -STEADY or change > (STEADY if resumed else MAX_JITTER):
                self.drop()
        if not self.packets:
            self._since, self._lowest = packet.arrived, packet.transit
        elif len(self.packets) >= MAX_SUSPECTS:
            self.packets.pop(0)
            self.dropped += 1
        self.packets.append(packet)
        self._lowest = min(self._lowest, packet.transit)
        lasted = packet.arrived - self._since
        return len(self.packets) >= MIN_RUN and lasted >= (RESUMED_AFTER if resumed else PATH_CHANGED_AFTER)

    def drop(self) -> None:
        """Give up the packets of the run: they were late."""
        self.dropped += len(self.packets)
        self.packets.clear()

    def take(self, since: float) -> list[LatePacket]:
        """End the run; return its packets that arrived at `since` or later, give up the others."""
        timely = [packet for packet in self.packets if packet.arrived >= since]
        self.dropped += len(self.packets) - len(timely)
        self.packets.clear()
        return timely
