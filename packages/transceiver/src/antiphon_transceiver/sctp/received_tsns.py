"""Which TSNs came, and when to say so (RFC 9260 §6.2). TSNs here are unbounded."""

from bisect import bisect_right
from math import inf

from antiphon_common.sequence import extend32
from antiphon_transceiver.sctp.chunks import SACK_SIZE, Sack
from antiphon_transceiver.sctp.rto import MAX_SACK_DELAY

MAX_AHEAD = 512
"""Chunks kept beyond the first missing TSN: as many of full size as our window holds. Filling one hole may deliver all
of them at once, so this bounds what one packet costs."""

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
        self.deadline = inf
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        """First and last TSN of each range behind a hole, in ascending order; no two ranges touch."""
        self._duplicates: list[int] = []
        self._packets = 0
        self._first = True

    @property
    def highest(self) -> int:
        """The highest TSN that came."""
        return self._lasts[-1] if self._lasts else self.cumulative

    def extend(self, tsn: int) -> int:
        """Return the unbounded TSN of one on the wire."""
        return extend32(tsn, self.cumulative)

    def is_new(self, tsn: int) -> bool:
        """Tell whether a TSN has not come yet; if it has, remember that it came again."""
        if tsn > self.cumulative:
            index = bisect_right(self._firsts, tsn)
            if not index or self._lasts[index - 1] < tsn:
                return True
        if len(self._duplicates) < MAX_DUPLICATES:
            self._duplicates.append(tsn)
        return False

    def has_room(self, tsn: int) -> bool:
        """Tell whether a new TSN is near enough to be kept."""
        return tsn <= self.cumulative + MAX_AHEAD and (len(self._firsts) < MAX_RANGES or tsn == self.cumulative + 1)

    def add(self, tsn: int) -> None:
        """Remember a new TSN."""
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
        """Wait no more for anything up to `tsn`; tell whether that is news."""
        if tsn <= self.cumulative:
            return False
        self.cumulative = tsn
        self._absorb()
        return True

    def _absorb(self) -> None:
        """Take up the ranges that the cumulative TSN has reached."""
        end = bisect_right(self._firsts, self.cumulative + 1)
        if end:
            self.cumulative = max(self.cumulative, self._lasts[end - 1])
            del self._firsts[:end], self._lasts[:end]

    # SACKs.

    def packet_received(self, now: float, *, at_once: bool) -> None:
        """A packet with data came: every second one is answered at once, and all while there are holes."""
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
        """Return the SACK of now, of at most `room` bytes."""
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
