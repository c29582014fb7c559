"""Schedules sender and receiver reports, and measures the round trip from the peer's reports (RFC 3550 §6)."""

from collections.abc import Callable, Sequence
from math import inf

from antiphon_common.errors import DecodeError
from antiphon_common.sequence import difference32
from antiphon_transceiver.rtcp.packets import (
    MAX_REPORT_BLOCKS,
    Bye,
    ReceiverReport,
    ReportBlock,
    RtcpPacket,
    SdesChunk,
    SdesItem,
    SenderReport,
    SourceDescription,
    decode_rtcp,
    encode_rtcp,
)
from antiphon_transceiver.rtp.packet import RtpPacket
from antiphon_transceiver.rtp.statistics import ReceiverStatistics, SenderStatistics

REPORT_INTERVAL = 2.0
"""Mean seconds between reports. RFC 3550 §6.2 allows RTCP 5 % of the bandwidth: with two members, 32 kbit/s of audio
and reports of 130 bytes that is one every 1.3 s. Its minimum of 5 s does not bind AVPF (RFC 4585 §3.4)."""

MAX_SOURCES = MAX_REPORT_BLOCKS
"""Sources reported on: as many as one report has room for. A new one replaces the one not received for longest."""


class ReporterCounters:
    """Compound packets received, and those in which something broke the format."""

    __slots__ = ("malformed", "received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.malformed = 0
        self.sent = 0


class Reporter:
    """The RTCP of a call that sends one stream.

    `clock_rate` is the RTP clock of both directions, in ticks a second. `random` returns that many random bytes.
    `ntp_offset` added to `now` gives seconds of NTP time. Feedback travels alone where `reduced_size` was negotiated.
    Packets are plain: SRTCP is the caller's.
    """

    __slots__ = (
        "_clock_rate",
        "_description",
        "_next_report",
        "_random",
        "_reduced_size",
        "_reported_at",
        "counters",
        "peer_report",
        "round_trip",
        "sender",
        "sources",
    )

    def __init__(
        self,
        ssrc: int,
        cname: str,
        clock_rate: int,
        random: Callable[[int], bytes],
        ntp_offset: float,
        *,
        reduced_size: bool = False,
    ) -> None:
        self.counters = ReporterCounters()
        self.sender = SenderStatistics(ssrc, clock_rate, ntp_offset)
        self.sources: dict[int, ReceiverStatistics] = {}
        """Received sources by SSRC."""
        self.peer_report: ReportBlock | None = None
        """The peer's last report block on our stream."""
        self.round_trip: float | None = None
        """Round trip in seconds, from the peer's last report that answers one of ours."""
        self._clock_rate = clock_rate
        self._random = random
        self._reduced_size = reduced_size
        self._description = SourceDescription((SdesChunk(ssrc, (SdesItem(SdesItem.CNAME, cname.encode()),)),))
        self._next_report = inf
        self._reported_at = 0.0

    def start(self, now: float) -> None:
        """Begin to report; the first is due after half an interval (RFC 3550 §6.2)."""
        self._reported_at = now
        self._next_report = now + self._random_interval() / 2

    def sent_rtp(self, timestamp: int, size: int, now: float) -> None:
        """Count one RTP packet of ours: its timestamp as it travels, and `size` bytes of payload."""
        self.sender.packet_sent(timestamp, size, now)

    def received_rtp(self, packet: RtpPacket, now: float, *, timed: bool = True) -> None:
        """Count one authenticated RTP packet of the peer; the jitter is that of packets that are `timed`, the audio."""
        source = self.sources.get(packet.ssrc)
        if source is None:
            source = self._add_source(packet.ssrc)
        source.packet_received(packet.sequence, packet.timestamp, now, timed=timed)

    def receive(self, data: bytes, now: float) -> Sequence[RtcpPacket]:
        """Take one authenticated compound packet, and return what is in it. Malformed packets in it are left out, and
        the compound is counted."""
        malformed: list[DecodeError] = []
        packets = decode_rtcp(data, malformed.append)
        if malformed:
            self.counters.malformed += 1
            if not packets:
                return ()
        self.counters.received += 1
        for packet in packets:
            self._receive_packet(packet, now)
        return packets

    def poll_report(self, now: float) -> bytes | None:
        """Return the compound packet that is due, or None."""
        if now < self._next_report:
            return None
        blocks = tuple(
            source.report(now)
            for source in self.sources.values()
            if source.last_received_at is not None and source.last_received_at >= self._reported_at
        )
        sent_at = self.sender.sent_at
        report: SenderReport | ReceiverReport
        if sent_at is not None and now - sent_at < 2 * REPORT_INTERVAL:
            report = self.sender.report(blocks, now)
        else:
            report = ReceiverReport(self.sender.ssrc, blocks)
        self._reported_at = now
        self._next_report = now + self._random_interval()
        self.counters.sent += 1
        return encode_rtcp((report, self._description))

    def poll_timeout(self) -> float:
        """Return when the next report is due; infinity before the stream starts and after its BYE."""
        return self._next_report

    def wrap(self, feedback: Sequence[RtcpPacket]) -> bytes:
        """Return feedback as it may travel: alone, or behind an empty report and a CNAME (RFC 4585 §3.1)."""
        if self._reduced_size:
            return encode_rtcp(feedback)
        return encode_rtcp((ReceiverReport(self.sender.ssrc), self._description, *feedback))

    def bye(self) -> bytes:
        """Return the compound packet that ends our stream (RFC 3550 §6.6); no report follows it."""
        self._next_report = inf
        ssrc = self.sender.ssrc
        return encode_rtcp((ReceiverReport(ssrc), self._description, Bye((ssrc,))))

    def _receive_packet(self, packet: RtcpPacket, now: float) -> None:
        match packet:
            case SenderReport(ssrc=ssrc, reports=reports):
                source = self.sources.get(ssrc)
                if source is not None:
                    source.sender_report_received(packet, now)
                self._receive_blocks(reports, now)
            case ReceiverReport(reports=reports):
                self._receive_blocks(reports, now)
            case Bye(sources=sources):
                for ssrc in sources:
                    self.sources.pop(ssrc, None)

    def _receive_blocks(self, blocks: tuple[ReportBlock, ...], now: float) -> None:
        for block in blocks:
            if block.ssrc != self.sender.ssrc:
                continue
            self.peer_report = block
            if block.last_sr:
                arrival = self.sender.ntp_time(now) >> 16 & 0xFFFFFFFF
                # Rounding can make the round trip of a nearby peer negative (RFC 3550 §6.4.1).
                self.round_trip = max(0, difference32(arrival - block.delay, block.last_sr)) / 65536

    def _add_source(self, ssrc: int) -> ReceiverStatistics:
        if len(self.sources) >= MAX_SOURCES:
            silent = min(self.sources.values(), key=lambda source: source.last_received_at or 0.0)
            del self.sources[silent.ssrc]
        source = self.sources[ssrc] = ReceiverStatistics(ssrc, self._clock_rate)
        return source

    def _random_interval(self) -> float:
        """Return the mean, made 0.5 to 1.5 times as long so that members do not fall into step (RFC 3550 §6.2)."""
        return REPORT_INTERVAL * (0.5 + int.from_bytes(self._random(2), "big") / 65536)
