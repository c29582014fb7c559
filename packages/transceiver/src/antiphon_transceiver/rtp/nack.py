"""Retransmission of lost packets by generic NACKs (RFC 4585 §6.2.1), both directions."""

from collections.abc import Sequence
from math import inf

KEPT_PACKETS = 64
"""Packets that can be retransmitted: 1.3 s at 20 ms each."""

MAX_AGE = 1.0
"""Seconds after which a packet of speech is not retransmitted."""

RETRANSMISSION_INTERVAL = 0.01
MAX_RETRANSMISSIONS = 4
"""Shortest interval in seconds, and largest number of retransmissions of one packet."""

MAX_MISSING = 64
"""Missing packets tracked. At 20 ms each, that is far more than any jitter buffer waits for. Packets of a longer gap
are not requested."""

MAX_REQUESTS = 3
MIN_REQUEST_INTERVAL = 0.02
"""Largest number of requests for one packet, and shortest interval between them in seconds. A round trip that is longer
replaces the interval."""


class _Kept:
    __slots__ = ("age_from", "packet", "resends", "resent_at", "sequence")

    def __init__(self, sequence: int, packet: bytes, now: float) -> None:
        self.sequence = sequence
        self.packet = packet
        self.age_from = now
        self.resends = 0
        self.resent_at = -inf


class RetransmissionBuffer:
    """The last protected packets of our stream. Call `store` for each packet, `take` for each request.

    A retransmission is the stored ciphertext: no packet is encrypted twice.
    """

    def __init__(self) -> None:
        self.resent = 0
        self.refused = 0
        """Requests for packets that are unknown, too old, or retransmitted too recently or too often."""
        self._slots: list[_Kept | None] = [None] * KEPT_PACKETS

    def store(self, protected: bytes, now: float) -> None:
        """Store a packet that is sent now. Its sequence number is read from the RTP header, which SRTP does not
        encrypt."""
        sequence = protected[2] << 8 | protected[3]
        self._slots[sequence % KEPT_PACKETS] = _Kept(sequence, protected, now)

    def take(self, sequence: int, now: float) -> bytes | None:
        """Return the packet to retransmit, or None."""
        kept = self._slots[sequence % KEPT_PACKETS]
        if (
            kept is None
            or kept.sequence != sequence
            or now - kept.age_from > MAX_AGE
            or kept.resends >= MAX_RETRANSMISSIONS
            or now - kept.resent_at < RETRANSMISSION_INTERVAL
        ):
            self.refused += 1
            return None
        kept.resends += 1
        kept.resent_at = now
        self.resent += 1
        return kept.packet


class _Hole:
    __slots__ = ("next_request", "requests", "since")

    def __init__(self, now: float) -> None:
        self.since = self.next_request = now
        self.requests = 0


class NackGenerator:
    """Tracks the missing packets of one source. Call `received` for each packet, and `poll` at `due`.

    A missing packet is requested at once, then once in each round trip while a retransmission can arrive in time.
    """

    def __init__(self) -> None:
        self.requested = 0
        self.recovered = 0
        """Packets received after they had been requested."""
        self.due = inf
        """When `poll` has packets to request; infinity if none is missing."""
        self._highest: int | None = None
        self._holes: dict[int, _Hole] = {}

    def restart(self) -> None:
        """Begin again with another source, whose first packet is the next one."""
        self._highest = None
        self._holes.clear()
        self.due = inf

    def received(self, sequence: int, now: float) -> None:
        """Record one packet of the source, by its extended sequence number."""
        highest = self._highest
        self._highest = sequence
        if highest is None or sequence == highest + 1:
            return
        ahead = sequence - highest
        if ahead <= 0:
            self._highest = highest
            hole = self._holes.pop(sequence, None)
            self.recovered += hole is not None and hole.requests > 0
        elif ahead + len(self._holes) > MAX_MISSING:
            self._holes.clear()
        else:
            self._holes.update({number: _Hole(now) for number in range(highest + 1, sequence)})
            self.due = now

    def poll(self, now: float, maximum_wait: float, round_trip: float | None) -> Sequence[int]:
        """Return the extended sequence numbers to request now.

        A packet is useful until `maximum_wait` seconds after its loss was noticed. A retransmission takes `round_trip`
        seconds, or an unknown time if that is None.
        """
        if now < self.due:
            return ()
        takes = round_trip or 0.0
        usable = {number: hole for number, hole in self._holes.items() if now + takes < hole.since + maximum_wait}
        self._holes = {number: hole for number, hole in usable.items() if hole.requests < MAX_REQUESTS}
        asked = [number for number, hole in self._holes.items() if now >= hole.next_request]
        for number in asked:
            hole = self._holes[number]
            hole.requests += 1
            hole.next_request = now + max(takes, MIN_REQUEST_INTERVAL)
        self.requested += len(asked)
        self.due = min((hole.next_request for hole in self._holes.values()), default=inf)
        return asked
