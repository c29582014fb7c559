"""Which TSNs came, and when to say so (RFC 9260 §6.2). TSNs here are unbounded."""

from antiphon_common.sequence import extend32
from antiphon_transceiver.sctp.chunks import SACK_SIZE, Sack
from antiphon_transceiver.sctp.rto import MAX_SACK_DELAY

MAX_AHEAD = 8192
"""How far beyond the first missing TSN we keep chunks: twice what we would send ourselves."""

MAX_RANGES = 256
"""Ranges of TSNs behind holes; as many gap blocks fill a packet."""

MAX_DUPLICATES = 16
"""TSNs that came again, kept for the next SACK; only statistics of the peer read them."""

PACKETS_PER_SACK = 2


class ReceivedTsns:
    """The receiving half's memory of TSNs, and the policy of its SACKs."""

    def __init__(self, initial_tsn: int) -> None:
        self.cumulative = initial_tsn - 1
        """All up to this one came, or will never come."""
        self.pending = False
        """Whether something came that no SACK has named."""
        self.due = False
        self.deadline: float | None = None
        self._ranges: list[list[int]] = []
        self._duplicates: list[int] = []
        self._packets = 0
        self._first = True

    @property
    def highest(self) -> int:
        """The highest TSN that came."""
        return self._ranges[-1][1] if self._ranges else self.cumulative

    def extend(self, tsn: int) -> int:
        """Return the unbounded TSN of one on the wire."""
        return extend32(tsn, self.cumulative)

    def is_new(self, tsn: int) -> bool:
        """Tell whether a TSN has not come yet; if it has, remember that it came again."""
        if tsn > self.cumulative and not any(first <= tsn <= last for first, last in self._ranges):
            return True
        if len(self._duplicates) < MAX_DUPLICATES:
            self._duplicates.append(tsn)
        return False

    def has_room(self, tsn: int) -> bool:
        """Tell whether a new TSN is near enough to be kept."""
        return tsn <= self.cumulative + MAX_AHEAD and (len(self._ranges) < MAX_RANGES or tsn == self.cumulative + 1)

    def add(self, tsn: int) -> None:
        """Remember a new TSN."""
        if tsn == self.cumulative + 1:
            self.cumulative = tsn
            self._absorb()
            return
        index = len(self._ranges)
        while index and self._ranges[index - 1][0] > tsn:
            index -= 1
        joins_left = index > 0 and self._ranges[index - 1][1] == tsn - 1
        joins_right = index < len(self._ranges) and self._ranges[index][0] == tsn + 1
        if joins_left and joins_right:
            self._ranges[index - 1][1] = self._ranges.pop(index)[1]
        elif joins_left:
            self._ranges[index - 1][1] = tsn
        elif joins_right:
            self._ranges[index][0] = tsn
        else:
            self._ranges.insert(index, [tsn, tsn])

    def skip_to(self, tsn: int) -> bool:
        """Wait no more for anything up to `tsn`; tell whether that is news."""
        if tsn <= self.cumulative:
            return False
        self.cumulative = tsn
        self._absorb()
        return True

    def _absorb(self) -> None:
        """Take up the ranges that the cumulative TSN has reached."""
        while self._ranges and self._ranges[0][0] <= self.cumulative + 1:
            self.cumulative = max(self.cumulative, self._ranges.pop(0)[1])

    # SACKs.

    def packet_received(self, now: float, *, at_once: bool) -> None:
        """A packet with data came: every second one is answered at once, and all while there are holes."""
        self.pending = True
        self._packets += 1
        if at_once or self._first or self._ranges or self._duplicates or self._packets >= PACKETS_PER_SACK:
            self.due = True
        elif self.deadline is None:
            self.deadline = now + MAX_SACK_DELAY
        self._first = False

    def handle_timeout(self, now: float) -> None:
        if self.deadline is not None and now >= self.deadline:
            self.due = True
            self.deadline = None

    def sack(self, window: int, room: int) -> Sack:
        """Return the SACK of now, of at most `room` bytes."""
        blocks = max(0, (room - SACK_SIZE) // 4)
        gaps = tuple((first - self.cumulative, last - self.cumulative) for first, last in self._ranges[:blocks])
        duplicates = tuple(tsn & 0xFFFFFFFF for tsn in self._duplicates[: blocks - len(gaps)])
        self._duplicates.clear()
        self._packets = 0
        self.pending = self.due = False
        self.deadline = None
        return Sack(self.cumulative & 0xFFFFFFFF, window, gaps, duplicates)
