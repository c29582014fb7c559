"""The retransmission timeout (RFC 9260 §6.3.1, which is that of RFC 6298). Seconds."""

INITIAL_RTO = 0.5
"""While no round trip is known. RFC 9260 §16 says 1 s; a voice call has just shaken hands over this path."""

MAX_SACK_DELAY = 0.2
"""How long a receiver may hold back its SACK, as peers and we do (RFC 9260 §6.2)."""

MIN_VARIATION = MAX_SACK_DELAY + 0.02
"""Least margin above the smoothed round trip: a SACK held back must not look lost, with 20 ms for late timers.

RFC 9260 has a floor of 1 s under the sum instead, meant for hosts with coarse clocks. The margin keeps what that floor
is for, on slow paths as well, and lets a lost last packet be repeated some 0.25 s after it was sent.
"""

MAX_RTO = 3.0
"""Longest timeout a measured round trip may lead to."""

MAX_BACK_OFF = 1.0
"""Longest a timeout is doubled to. One packet a second is less than the audio beside it, so nothing is gained by
waiting longer (RFC 9260 §16: 60 s); a path that comes back is used again within this."""


class RetransmissionTimeout:
    """Smooths measured round trips into a timeout, and doubles it while nothing is answered."""

    def __init__(self) -> None:
        self.value = INITIAL_RTO
        self.round_trip: float | None = None
        """The smoothed round trip."""
        self._variation = 0.0

    def measure(self, round_trip: float) -> None:
        """Take the time from a chunk that was sent once to its acknowledgement."""
        if self.round_trip is None:
            self.round_trip, self._variation = round_trip, round_trip / 2
        else:
            self._variation += (abs(self.round_trip - round_trip) - self._variation) / 4
            self.round_trip += (round_trip - self.round_trip) / 8
        self.answered()

    def answered(self) -> None:
        """Something sent was acknowledged, so the path works: waiting longer and longer is over.

        RFC 9260 §6.3.3 keeps the doubled timeout until a round trip can be measured, which under heavy loss takes
        many of them; TCP has long returned to the measured one here.
        """
        if self.round_trip is None:
            self.value = INITIAL_RTO
        else:
            self.value = min(self.round_trip + max(4 * self._variation, MIN_VARIATION), MAX_RTO)

    def back_off(self) -> None:
        """The timeout passed without an answer (RFC 9260 §6.3.3 E2)."""
        self.value = max(self.value, min(2 * self.value, MAX_BACK_OFF))
