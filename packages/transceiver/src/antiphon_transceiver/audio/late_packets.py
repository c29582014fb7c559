"""Tells packets that are late from a sender whose clock stood still, and from a path that became longer."""

from collections.abc import Sequence
from math import inf
from typing import Final, NamedTuple

from antiphon_transceiver.rtp.red import RedundantBlock

STEADY: Final = 0.01
"""Seconds that transits may fall by and still count as steady, in addition to the jitter seen before. Where a stalled
network empties its queue they fall by up to a packet's whole duration from one to the next."""

MAX_FALL: Final = 0.04
"""Seconds of that jitter that count at most: transits of a queue that empties soon fall by more."""

MAX_JITTER: Final = 0.1
"""Seconds by which steady transits may rise; a stall raises them by more."""

RESUMED_AFTER: Final = 0.08
"""Seconds of late packets with steady transits that show that their sender's clock stood still while it sent nothing,
as those of push-to-talk devices do, or that the path has become longer. A queue that empties is over by then, or its
transits have fallen."""

RESUMED_TIMELY_AFTER: Final = 0.04
"""As `RESUMED_AFTER`, where the newest of these packets is timely."""

STRAYED_AFTER: Final = 0.5
"""As `RESUMED_AFTER`, where the packets are behind released ones. Either their sender began anew with smaller sequence
numbers, or they took a slower path."""

MIN_RUN: Final = 3
"""Packets that show anything at least."""

MAX_SUSPECTS: Final = 64
"""Late packets kept in case they turn out to be timely; of 20 ms each, eight matter."""


class LatePacket(NamedTuple):
    """A packet as it was pushed, with its extended sequence number, arrival and transit."""

    extended: int
    timestamp: int
    payload: bytes
    redundant: Sequence[RedundantBlock]
    arrived: float
    transit: float


class LatePacketDetector:
    """The late packets since the last timely one."""

    __slots__ = ("_allowed_fall", "_behind", "_count", "_highest", "_lowest", "_since", "dropped", "packets")

    def __init__(self) -> None:
        self.packets: list[LatePacket] = []
        self.dropped = 0
        """How many late packets were given up for good."""
        self._allowed_fall = STEADY
        self._behind = False
        self._count = 0
        """Packets with steady transits since `_since`, and their transits' range."""
        self._since = 0.0
        self._highest = self._lowest = inf

    def add(self, packet: LatePacket, jitter: float, *, behind: bool) -> bool:
        """Take a late packet; return True when the run shows that its packets are not late.

        Transits differed by `jitter` seconds before the run. A packet is `behind` when a later one has been released.
        """
        if not self.packets:
            self._behind = behind
            self._allowed_fall = STEADY + min(jitter, MAX_FALL)
            self._count = 0
        elif len(self.packets) >= MAX_SUSPECTS:
            del self.packets[0]
            self.dropped += 1
        self.packets.append(packet)
        if not self._count or not self._is_steady(packet.transit):
            self._since, self._count = packet.arrived, 0
            self._highest = self._lowest = packet.transit
        self._count += 1
        self._highest = max(self._highest, packet.transit)
        self._lowest = min(self._lowest, packet.transit)
        lasted = packet.arrived - self._since
        return self._count >= MIN_RUN and lasted >= (STRAYED_AFTER if self._behind else RESUMED_AFTER)

    def is_continued(self, transit: float, now: float) -> bool:
        """Return True when a timely packet shows that those of the run are not late: it follows them steadily."""
        return (
            not self._behind
            and self._count >= MIN_RUN - 1
            and now - self._since >= RESUMED_TIMELY_AFTER
            and self._is_steady(transit)
        )

    def drop(self) -> None:
        """Give up the packets of the run: they were late."""
        self.dropped += len(self.packets)
        self.packets.clear()

    def take(self, now: float, age: float) -> list[LatePacket]:
        """End the run; return its packets in their order, and give up older ones.

        With the smallest transit of the run they would have arrived more than `age` seconds ago.
        """
        oldest = now - self._lowest - age
        timely = sorted(packet for packet in self.packets if packet.arrived - packet.transit >= oldest)
        self.dropped += len(self.packets) - len(timely)
        self.packets.clear()
        return timely

    def _is_steady(self, transit: float) -> bool:
        return self._highest - self._allowed_fall <= transit <= self._lowest + MAX_JITTER
