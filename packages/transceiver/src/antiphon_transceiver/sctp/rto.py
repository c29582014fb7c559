"""The retransmission timeout (RFC 9260 §6.3.1, as in RFC 6298). Times are in seconds."""

INITIAL_RTO = 0.5
"""The timeout while no round trip is known. RFC 9260 §16 has 1 s, but DTLS has just used this path."""

MAX_SACK_DELAY = 0.2
"""The longest delay of a SACK, of peers and of ours (RFC 9260 §6.2)."""

MIN_VARIATION = MAX_SACK_DELAY + 0.02
"""The least margin above the smoothed round trip: a delayed SACK must not look lost, plus 20 ms for late timers.

RFC 9260 has a minimum of 1 s for the sum instead, for hosts with coarse clocks. The margin serves the same purpose on
slow paths too, and a lost last packet is retransmitted some 0.25 s after it was sent.
"""

MAX_RTO = 3.0
"""The longest timeout that a measured round trip leads to."""

MAX_BACK_OFF = 1.0
"""The longest timeout that doubling leads to. RFC 9260 §16 has 60 s, but one packet a second is less than the audio of
the call, and a path that recovers is used again within this time."""


class RetransmissionTimeout:
    """The retransmission timeout: smoothed round trips, doubled while nothing is answered.

    `measure` round trips, and `back_off` each time that `value` has passed without an answer.
    """

    def __init__(self) -> None:
        self.value = INITIAL_RTO
        self.round_trip: float | None = None
        """The smoothed round trip."""
        self._variation = 0.0

    def measure(self, round_trip: float) -> None:
        """Add the time from a chunk that was sent once to its acknowledgement."""
        if self.round_trip is None:
            self.round_trip, self._variation = round_trip, round_trip / 2
        else:
            self._variation += (abs(self.round_trip - round_trip) - self._variation) / 4
            self.round_trip += (round_trip - self.round_trip) / 8
        self.answered()

    def answered(self) -> None:
        """Return to the measured timeout, since something was acknowledged.

        RFC 9260 §6.3.3 keeps the doubled timeout until a round trip is measured, which takes many round trips under
        heavy loss. TCP returns to the measured timeout at this point.
        """
        if self.round_trip is None:
            self.value = INITIAL_RTO
        else:
            self.value = min(self.round_trip + max(4 * self._variation, MIN_VARIATION), MAX_RTO)

    def back_off(self) -> None:
        """Double the timeout, since it passed without an answer (RFC 9260 §6.3.3 E2)."""
        self.value = max(self.value, min(2 * self.value, MAX_BACK_OFF))
