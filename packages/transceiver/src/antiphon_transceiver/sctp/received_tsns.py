"""The TSNs received, and when a SACK is due (RFC 9260 §6.2). TSNs are unbounded here."""

from bisect import bisect_right
from math import inf

from antiphon_common.sequence import extend32
from antiphon_transceiver.sctp.chunks import SACK_SIZE, Sack
from antiphon_transceiver.sctp.rto import MAX_SACK_DELAY

MAX_AHEAD = 512
"""TSNs accepted beyond the cumulative TSN: as many as chunks of full size fit a_rwnd. A chunk that fills a gap may
deliver all of them, so this bounds the cost of one packet."""

MAX_RANGES = 256
"""Ranges of TSNs after gaps; as many gap ack blocks fill a packet."""

MAX_DUPLICATES = 16
"""Duplicate TSNs kept for the next SACK; peers use them for statistics only."""

PACKETS_PER_SACK = 2


class ReceivedTsns:
    """The TSNs received, and the policy of delayed SACKs.

    `add` each TSN that `is_new` and `has_room`. When a SACK is `due`, send that of `sack`.
    """

    def __init__(self, initial_tsn: int) -> None:
        self.cumulative = initial_tsn - 1
        """All TSNs up to it were received or abandoned."""
        self.pending = False
        """Whether something was received that no SACK has reported."""
        self.due = False
        self.deadline = inf
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        """First and last TSN of each range after a gap, in ascending order. Ranges do not touch."""
        self._duplicates: list[int] = []
        self._packets = 0
        self._first = True

    @property
    def highest(self) -> int:
        """The highest TSN received."""
        return self._lasts[-1] if self._lasts else self.cumulative

    def extend(self, tsn: int) -> int:
        """Return the unbounded TSN for a TSN of 32 bits."""
        return extend32(tsn, self.cumulative)

    def is_new(self, tsn: int) -> bool:
        """Return True if a TSN was not received before. Otherwise record it as a duplicate."""
        if tsn > self.cumulative:
            index = bisect_right(self._firsts, tsn)
            if not index or self._lasts[index - 1] < tsn:
                return True
        if len(self._duplicates) < MAX_DUPLICATES:
            self._duplicates.append(tsn)
        return False

    def has_room(self, tsn: int) -> bool:
        """Return True if a new TSN is within the limits."""
        return tsn <= self.cumulative + MAX_AHEAD and (len(self._firsts) < MAX_RANGES or tsn == self.cumulative + 1)

    def add(self, tsn: int) -> None:
        """Record a new TSN as received."""
        if tsn == self.cumulative + 1:
            self.cumulative = tsn
            self._absorb()
            return
        firsts, lasts = self._firsts, self._lasts
        index = bisect_right(firsts, tsn)
        joins_left = index > 0 and lasts[index - 1] == tsn - 1
        joins_right = index < len(firsts) and firsts[index] == tsn + 1
        if joins_left and joins_right:
            lasts[index - 1] = lasts[index]
            del firsts[index], lasts[index]
        elif joins_left:
            lasts[index - 1] = tsn
        elif joins_right:
            firsts[index] = tsn
        else:
            firsts.insert(index, tsn)
            lasts.insert(index, tsn)

    def skip_to(self, tsn: int) -> bool:
        """Advance the cumulative TSN to `tsn`. Return False if it is there already."""
        if tsn <= self.cumulative:
            return False
        self.cumulative = tsn
        self._absorb()
        return True

    def _absorb(self) -> None:
        """Remove the ranges that the cumulative TSN has reached."""
        end = bisect_right(self._firsts, self.cumulative + 1)
        if end:
            self.cumulative = max(self.cumulative, self._lasts[end - 1])
            del self._firsts[:end], self._lasts[:end]

    # SACKs.

    def packet_received(self, now: float, *, at_once: bool) -> None:
        """Handle a packet with data. A SACK is due for every second one, and for each while there are gaps."""
        self.pending = True
        self._packets += 1
        if at_once or self._first or self._firsts or self._duplicates or self._packets >= PACKETS_PER_SACK:
            self.due = True
        elif self.deadline == inf:
            self.deadline = now + MAX_SACK_DELAY
        self._first = False

    def handle_timeout(self, now: float) -> None:
        if now >= self.deadline:
            self.due = True
            self.deadline = inf

    def sack(self, a_rwnd: int, room: int) -> Sack:
        """Return the present SACK, of at most `room` bytes."""
        blocks = max(0, (room - SACK_SIZE) // 4)
        base = self.cumulative
        ranges = zip(self._firsts[:blocks], self._lasts[:blocks], strict=True)
        gaps = tuple([(first - base, last - base) for first, last in ranges])
        duplicates = tuple([tsn & 0xFFFFFFFF for tsn in self._duplicates[: blocks - len(gaps)]])
        self._duplicates.clear()
        self._packets = 0
        self.pending = self.due = False
        self.deadline = inf
        return Sack(self.cumulative & 0xFFFFFFFF, a_rwnd, gaps, duplicates)
