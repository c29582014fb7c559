"""Congestion control (RFC 9260 §7.2): how many bytes may be in flight. Bytes count with their chunk headers."""

INITIAL_PACKETS = 10
"""Packets in the first window (RFC 6928). RFC 9260 allows three or four; audio beside it sends 50 a second anyway."""

MIN_SSTHRESH_PACKETS = 4

APPROPRIATE_BYTES_LIMIT = 2
"""Packets by which slow start may grow for one SACK (L of RFC 9260 §7.2.1), since a SACK answers two packets."""

MAX_CWND = 1 << 20
"""Bytes. More than we ever buffer, so growing further would mean nothing."""


class CongestionControl:
    """The congestion window of one path: slow start, congestion avoidance, fast recovery."""

    def __init__(self, packet_size: int) -> None:
        self.packet_size = packet_size
        self.cwnd = INITIAL_PACKETS * packet_size
        self.ssthresh = MAX_CWND
        self._partial = 0
        self._recovery_end: int | None = None

    @property
    def recovering(self) -> bool:
        return self._recovery_end is not None

    def acknowledged(self, cumulative_tsn: int, size: int, flight_before: int) -> None:
        """The cumulative TSN moved and `size` bytes were newly acknowledged, out of `flight_before`."""
        if self._recovery_end is not None:
            if cumulative_tsn >= self._recovery_end:
                self._recovery_end = None
            return
        if flight_before + self.packet_size <= self.cwnd:
            return  # the window was not what held us back (RFC 9260 §7.2.1)
        if self.cwnd <= self.ssthresh:
            self.cwnd += min(size, APPROPRIATE_BYTES_LIMIT * self.packet_size)
        else:
            self._partial += size
            if self._partial >= self.cwnd:
                self._partial -= self.cwnd
                self.cwnd += self.packet_size
        self.cwnd = min(self.cwnd, MAX_CWND)

    def lost(self, highest_tsn: int) -> bool:
        """Chunks were reported missing; tell whether this begins a fast recovery that lasts until `highest_tsn`."""
        if self._recovery_end is not None:
            return False
        self._halve()
        self.cwnd = self.ssthresh
        self._recovery_end = highest_tsn
        return True

    def timed_out(self) -> None:
        """Nothing came back at all (RFC 9260 §7.2.3)."""
        self._halve()
        self.cwnd = self.packet_size
        self._recovery_end = None

    def resumed(self) -> None:
        """Something is sent again after a pause: what the path took before it says little (RFC 5681 §4.1)."""
        self.cwnd = min(self.cwnd, INITIAL_PACKETS * self.packet_size)

    def _halve(self) -> None:
        self.ssthresh = max(self.cwnd // 2, MIN_SSTHRESH_PACKETS * self.packet_size)
        self._partial = 0
