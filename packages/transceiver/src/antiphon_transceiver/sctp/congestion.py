"""Congestion control (RFC 9260 §7.2). Bytes include chunk headers."""

INITIAL_PACKETS = 10
"""Packets of the initial cwnd (RFC 6928). RFC 9260 allows four; the audio of the call sends 50 a second anyway."""

MIN_SSTHRESH_PACKETS = 4

APPROPRIATE_BYTES_LIMIT = 2
"""Packets by which one SACK may increase cwnd in slow start (L of RFC 9260 §7.2.1): a SACK acknowledges two."""

MAX_CWND = 1 << 20
"""Bytes. Never more are buffered, so a larger cwnd would have no effect."""


class CongestionControl:
    """The congestion window of the path: slow start, congestion avoidance, fast recovery.

    `DataSender` reports what happens to its chunks, and keeps fewer than `cwnd` bytes in flight.
    """

    def __init__(self, packet_size: int) -> None:
        self.packet_size = packet_size
        self.cwnd = INITIAL_PACKETS * packet_size
        self.ssthresh = MAX_CWND
        self._partial = 0
        self._recovery_end: int | None = None

    @property
    def recovering(self) -> bool:
        """Whether a fast recovery is in progress (RFC 9260 §7.2.4)."""
        return self._recovery_end is not None

    def acknowledged(self, cumulative_tsn: int, size: int, flight_before: int) -> None:
        """Handle a new cumulative TSN; `size` of `flight_before` bytes in flight were newly acknowledged."""
        if self._recovery_end is not None:
            if cumulative_tsn >= self._recovery_end:
                self._recovery_end = None
            return
        if flight_before + self.packet_size <= self.cwnd:
            return  # cwnd was not fully used (RFC 9260 §7.2.1)
        if self.cwnd <= self.ssthresh:
            self.cwnd += min(size, APPROPRIATE_BYTES_LIMIT * self.packet_size)
        else:
            self._partial += size
            if self._partial >= self.cwnd:
                self._partial -= self.cwnd
                self.cwnd += self.packet_size
        self.cwnd = min(self.cwnd, MAX_CWND)

    def lost(self, highest_tsn: int) -> bool:
        """Handle chunks reported missing. Return True if a fast recovery begins; it ends at `highest_tsn`."""
        if self._recovery_end is not None:
            return False
        self._halve()
        self.cwnd = self.ssthresh
        self._recovery_end = highest_tsn
        return True

    def timed_out(self) -> None:
        """Handle the expiry of T3-rtx (RFC 9260 §7.2.3)."""
        self._halve()
        self.cwnd = self.packet_size
        self._recovery_end = None

    def resumed(self) -> None:
        """Reduce cwnd to its initial value after a pause in sending (RFC 5681 §4.1)."""
        self.cwnd = min(self.cwnd, INITIAL_PACKETS * self.packet_size)

    def _halve(self) -> None:
        self.ssthresh = max(self.cwnd // 2, MIN_SSTHRESH_PACKETS * self.packet_size)
        self._partial = 0
