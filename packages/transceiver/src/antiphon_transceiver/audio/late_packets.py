"""Distinguishes late packets from those of a sender whose clock stood still, or of a path that became longer."""

from collections.abc import Sequence
from math import inf
from typing import Final, NamedTuple

from antiphon_transceiver.rtp.red import RedundantBlock

STEADY: Final = 0.01
"""Seconds by which steady transits may fall, in addition to the jitter before. When a stalled network empties its
queue, transits fall by up to a packet's duration from one packet to the next."""

MAX_FALL: Final = 0.04
"""Largest jitter in seconds that is added to `STEADY`. When a queue empties, transits soon fall by more."""

MAX_JITTER: Final = 0.1
"""Seconds by which steady transits may rise. A stall raises them by more."""

RESUMED_AFTER: Final = 0.08
"""Seconds of late packets with steady transits after which they count as not late. Either their sender's clock stood
still while it sent nothing, as in push-to-talk devices, or the path became longer. By then a queue is empty, or its
transits have fallen."""

RESUMED_TIMELY_AFTER: Final = 0.04
"""As `RESUMED_AFTER`, if a timely packet follows the late ones steadily."""

STRAYED_AFTER: Final = 0.5
"""As `RESUMED_AFTER`, if later packets were released already. Either the sender began again with smaller sequence
numbers, or the packets took a slower path."""

MIN_RUN: Final = 3
"""Smallest number of packets whose transits can count as steady."""

MAX_SUSPECTS: Final = 64
"""Late packets kept, since they may turn out to be timely. At 20 ms each, eight would be enough."""


class LatePacket(NamedTuple):
    """A late packet as it was pushed to the jitter buffer, with its extended sequence number, arrival and transit.

    Times are in seconds. `LatePacketDetector` keeps it, since it may turn out not to be late.
    """

    extended: int
    timestamp: int
    payload: bytes
    redundant: Sequence[RedundantBlock]
    arrived: float
    transit: float


class LatePacketDetector:
    """Detects that a run of late packets is not late. A run is the late packets since the last timely one.

    Call `add` for each late packet and `is_continued` for a timely one. If one of them returns True, `take` the
    packets; otherwise `drop` them when a timely packet arrives.
    """

    __slots__ = ("_allowed_fall", "_behind", "_count", "_highest", "_lowest", "_since", "dropped", "packets")

    def __init__(self) -> None:
        self.packets: list[LatePacket] = []
        self.dropped = 0
        """Number of late packets that were dropped."""
        self._allowed_fall = STEADY
        self._behind = False
        self._count = 0
        """Number of packets with steady transits since `_since`; their range is `_lowest` to `_highest`."""
        self._since = 0.0
        self._highest = self._lowest = inf

    def add(self, packet: LatePacket, jitter: float, *, behind: bool) -> bool:
        """Add a late packet. Return True when the run shows that its packets are not late.

        `jitter` is the range of the transits before the run, in seconds. A packet is `behind` if a later one was
        released already.
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
        """Return True if a timely packet shows that the run is not late: its transit continues theirs steadily."""
        return (
            not self._behind
            and self._count >= MIN_RUN - 1
            and now - self._since >= RESUMED_TIMELY_AFTER
            and self._is_steady(transit)
        )

    def drop(self) -> None:
        """Drop the packets of the run, which were late."""
        self.dropped += len(self.packets)
        self.packets.clear()

    def take(self, now: float, age: float) -> list[LatePacket]:
        """End the run. Return its packets in order, without those older than `age` seconds.

        The age counts from the time at which a packet would have arrived with the smallest transit of the run.
        """
        oldest = now - self._lowest - age
        timely = sorted(packet for packet in self.packets if packet.arrived - packet.transit >= oldest)
        self.dropped += len(self.packets) - len(timely)
        self.packets.clear()
        return timely

    def _is_steady(self, transit: float) -> bool:
        return self._highest - self._allowed_fall <= transit <= self._lowest + MAX_JITTER
