"""Statistics for RTCP reports: those of a received source (RFC 3550 A.1, A.3, A.8), and those of our own stream."""

from antiphon_transceiver.rtcp.packets import ReportBlock, SenderReport

NTP_EPOCH = 2_208_988_800
"""Seconds from the epoch of NTP, 1900, to that of Unix, 1970 (RFC 5905 §6)."""

MAX_DROPOUT = 3000
"""Packets that a source may skip within a stream: a minute of audio (RFC 3550 A.1)."""

MAX_MISORDER = 100
"""Packets by which a reordered packet may be late within a stream (RFC 3550 A.1)."""

MIN_PACKETS_LOST, MAX_PACKETS_LOST = -0x800000, 0x7FFFFF


class ReceiverStatistics:
    """Statistics of one received source. Call `packet_received` for each packet, and `report` for each report.

    `clock_rate` is in RTP ticks a second.
    """

    __slots__ = (
        "_base",
        "_expected_before",
        "_highest",
        "_jitter",
        "_last_sr",
        "_last_sr_at",
        "_received_before",
        "_restart_at",
        "_timed_at",
        "_timestamp",
        "clock_rate",
        "last_received_at",
        "loss",
        "received",
        "ssrc",
    )

    def __init__(self, ssrc: int, clock_rate: int) -> None:
        self.ssrc = ssrc
        self.clock_rate = clock_rate
        self.last_received_at: float | None = None
        """When the last packet was received."""
        self.received = 0
        self.loss = 0.0
        """Share of packets lost between our last two reports, 0 to 1."""
        self._base = self._highest = 0
        self._restart_at: int | None = None
        self._expected_before = self._received_before = 0
        self._jitter = 0.0
        self._timestamp = 0
        self._timed_at = 0.0
        """When the packet with `_timestamp` was received."""
        self._last_sr = 0
        self._last_sr_at = 0.0

    @property
    def packets_lost(self) -> int:
        """Packets expected but not received since the beginning; negative if duplicates arrived."""
        return self._expected - self.received

    @property
    def jitter(self) -> float:
        """Interarrival jitter in seconds (RFC 3550 §6.4.1)."""
        return self._jitter / self.clock_rate

    @property
    def _expected(self) -> int:
        return 0 if self.last_received_at is None else self._highest - self._base + 1

    def packet_received(self, sequence: int, timestamp: int, now: float, *, timed: bool = True) -> int:
        """Record an authenticated packet, and return its extended sequence number (RFC 3550 A.1).

        There is no probation, since packets are authenticated. If a source begins again, so do the extended sequence
        numbers, and `received` is 1. Only packets that are `timed` count for the jitter.
        """
        if self.last_received_at is None:
            self._begin(sequence)
            extended = sequence
        else:
            ahead = (sequence - self._highest + 0x8000 & 0xFFFF) - 0x8000
            extended = self._highest + ahead
            if -MAX_MISORDER < ahead < MAX_DROPOUT:
                if ahead > 0:
                    self._highest = extended
                if timed:
                    ticks = (timestamp - self._timestamp + 0x80000000 & 0xFFFFFFFF) - 0x80000000
                    transit_change = (now - self._timed_at) * self.clock_rate - ticks
                    self._jitter += (abs(transit_change) - self._jitter) / 16
            elif sequence == self._restart_at:
                self._begin(sequence)
                extended = sequence
            else:
                # Two consecutive packets after a jump mean that the source began again. A single one is ignored.
                self._restart_at = sequence + 1 & 0xFFFF
                return extended
        self.received += 1
        self.last_received_at = now
        if timed:
            self._timestamp, self._timed_at = timestamp, now
        return extended

    def sender_report_received(self, report: SenderReport, now: float) -> None:
        """Record an SR of this source. Our next report refers to it, so that the peer can measure the round trip."""
        self._last_sr = report.ntp_time >> 16 & 0xFFFFFFFF
        self._last_sr_at = now

    def report(self, now: float) -> ReportBlock:
        """Return the block for a report that is sent now, and begin the next interval (RFC 3550 A.3)."""
        expected, received = self._expected, self.received
        expected_interval = expected - self._expected_before
        lost_interval = expected_interval - (received - self._received_before)
        self._expected_before, self._received_before = expected, received
        self.loss = lost_interval / expected_interval if lost_interval > 0 < expected_interval else 0.0
        delay = int((now - self._last_sr_at) * 65536) if self._last_sr else 0
        return ReportBlock(
            ssrc=self.ssrc,
            fraction_lost=min(255, int(256 * self.loss)),
            packets_lost=min(max(expected - received, MIN_PACKETS_LOST), MAX_PACKETS_LOST),
            highest_sequence=self._highest & 0xFFFFFFFF,
            jitter=int(self._jitter) & 0xFFFFFFFF,
            last_sr=self._last_sr,
            delay=min(delay, 0xFFFFFFFF),
        )

    def _begin(self, sequence: int) -> None:
        self._base = self._highest = sequence
        self._restart_at = None
        self.received = self._received_before = self._expected_before = 0


class SenderStatistics:
    """Statistics of our own stream. Call `packet_sent` for each packet, and `report` for each report.

    `ntp_offset` added to `now` gives seconds of NTP time.
    """

    __slots__ = ("_timestamp", "clock_rate", "ntp_offset", "octets", "packets", "sent_at", "ssrc")

    def __init__(self, ssrc: int, clock_rate: int, ntp_offset: float) -> None:
        self.ssrc = ssrc
        self.packets = 0
        self.octets = 0
        """Bytes of payload sent, without headers and padding."""
        self.sent_at: float | None = None
        self.clock_rate = clock_rate
        self.ntp_offset = ntp_offset
        self._timestamp = 0

    def packet_sent(self, timestamp: int, size: int, now: float) -> None:
        """Record a packet of `size` payload bytes."""
        self.packets += 1
        self.octets += size
        self._timestamp = timestamp
        self.sent_at = now

    def ntp_time(self, now: float) -> int:
        """Return `now` as 64 bits of NTP time."""
        return int((now + self.ntp_offset) * (1 << 32)) & 0xFFFFFFFFFFFFFFFF

    def report(self, reports: tuple[ReportBlock, ...], now: float) -> SenderReport:
        """Return an SR. Its RTP timestamp is that of the last packet plus the time since then."""
        since = now - (now if self.sent_at is None else self.sent_at)
        return SenderReport(
            ssrc=self.ssrc,
            ntp_time=self.ntp_time(now),
            rtp_timestamp=self._timestamp + int(since * self.clock_rate) & 0xFFFFFFFF,
            packet_count=self.packets & 0xFFFFFFFF,
            octet_count=self.octets & 0xFFFFFFFF,
            reports=reports,
        )
