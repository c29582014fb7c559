"""Lost packets sent again (RFC 4585 §6.2.1): what we keep for the peer, and what we ask of it."""

from collections.abc import Sequence
from math import inf

from antiphon_common.sequence import difference16

KEPT_PACKETS = 64
"""Packets that can be sent again: 1.3 s at 20 ms each."""

MAX_AGE = 1.0
"""Seconds after which nobody has any use for a packet of speech."""

RESEND_INTERVAL = 0.01
MAX_RESENDS = 4
"""How soon and how often one packet leaves again; a peer that asks for more has not waited for an answer."""

MAX_MISSING = 64
"""Packets asked for at once: at 20 ms each far more than any jitter buffer waits for. A longer hole is given up."""

MAX_REQUESTS = 3
MIN_REQUEST_INTERVAL = 0.02
"""How often and how soon one packet is asked for; a measured round trip makes the interval longer."""


class _Kept:
    __slots__ = ("age_from", "packet", "resends", "resent_at", "sequence")

    def __init__(self, sequence: int, packet: bytes, now: float) -> None:
        self.sequence = sequence
        self.packet = packet
        self.age_from = now
        self.resends = 0
        self.resent_at = -inf


class SentPackets:
    """The protected packets of one source that were sent last. They leave again as they are, since no packet is ever
    encrypted twice."""

    def __init__(self) -> None:
        self.resent = 0
        self.refused = 0
        """Packets asked for that are unknown or too old, or left again just before or too often."""
        self._slots: list[_Kept | None] = [None] * KEPT_PACKETS

    def store(self, protected: bytes, now: float) -> None:
        """Keep a packet that is sent now; its sequence number stands in the header, which is in the clear."""
        sequence = protected[2] << 8 | protected[3]
        self._slots[sequence % KEPT_PACKETS] = _Kept(sequence, protected, now)

    def take(self, sequence: int, now: float) -> bytes | None:
        """Return the packet to send again, or None."""
        kept = self._slots[sequence % KEPT_PACKETS]
        if (
            kept is None
            or kept.sequence != sequence
            or now - kept.age_from > MAX_AGE
            or kept.resends >= MAX_RESENDS
            or now - kept.resent_at < RESEND_INTERVAL
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


class MissingPackets:
    """The holes in one source's sequence numbers, and when to ask for them: at once, then once in each round trip, as
    long as an answer can come in time."""

    def __init__(self) -> None:
        self.requested = 0
        self.recovered = 0
        """Packets that came after they had been asked for."""
        self.due = inf
        """When `poll` has something to ask for; infinite when nothing is missing."""
        self._highest: int | None = None
        self._holes: dict[int, _Hole] = {}

    def restart(self) -> None:
        """Say that the next packet begins another stream."""
        self._highest = None
        self._holes.clear()
        self.due = inf

    def received(self, sequence: int, now: float) -> None:
        """Count one packet of the source."""
        highest = self._highest
        self._highest = sequence
        if highest is None or sequence == highest + 1 & 0xFFFF:
            return
        ahead = difference16(sequence, highest)
        if ahead <= 0:
            self._highest = highest
            hole = self._holes.pop(sequence, None)
            self.recovered += hole is not None and hole.requests > 0
        elif ahead + len(self._holes) > MAX_MISSING:
            self._holes.clear()
        else:
            self._holes.update({highest + offset & 0xFFFF: _Hole(now) for offset in range(1, ahead)})
            self.due = now

    def poll(self, now: float, patience: float, round_trip: float | None) -> Sequence[int]:
        """Return the sequence numbers to ask for now.

        A packet is of use for `patience` seconds after it was missed; an answer takes `round_trip`, if that is known.
        """
        if now < self.due:
            return ()
        takes = round_trip or 0.0
        usable = {number: hole for number, hole in self._holes.items() if now + takes < hole.since + patience}
        self._holes = {number: hole for number, hole in usable.items() if hole.requests < MAX_REQUESTS}
        asked = [number for number, hole in self._holes.items() if now >= hole.next_request]
        for number in asked:
            hole = self._holes[number]
            hole.requests += 1
            hole.next_request = now + max(takes, MIN_REQUEST_INTERVAL)
        self.requested += len(asked)
        self.due = min((hole.next_request for hole in self._holes.values()), default=inf)
        return asked
