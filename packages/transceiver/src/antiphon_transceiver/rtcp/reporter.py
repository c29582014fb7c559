"""Schedules sender and receiver reports, and measures the round trip from the peer's reports (RFC 3550 §6)."""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Protocol

from antiphon_common.errors import DecodeError
from antiphon_common.sequence import difference32
from antiphon_transceiver.rtcp.packets import (
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

REPORT_INTERVAL = 2.0
"""Mean seconds between reports. RFC 3550 §6.2 allows RTCP 5 % of the bandwidth. With two members, 32 kbit/s of audio
and reports of 130 bytes, that is one every 1.3 s. The minimum of 5 s does not apply to AVPF (RFC 4585 §3.4)."""


class SentStream(Protocol):
    """The state of our own stream, from which a `Reporter` makes its reports. `rtp.SenderStatistics` implements it."""

    ssrc: int
    sent_at: float | None

    def ntp_time(self, now: float) -> int:
        """Return `now` as 64 bits of NTP time."""

    def report(self, reports: tuple[ReportBlock, ...], now: float) -> SenderReport:
        """Return an SR with these report blocks."""


class ReceivedSource(Protocol):
    """The state of one source of the peer, on which a `Reporter` reports. `rtp.ReceiverStatistics` implements it."""

    last_received_at: float | None

    def sender_report_received(self, report: SenderReport, now: float) -> None:
        """Record an SR of this source."""

    def report(self, now: float) -> ReportBlock:
        """Return the block for a report sent now."""


class ReporterCounters:
    """The counters of a `Reporter`, exported as metrics.

    `received` and `sent` count compound packets. `malformed` counts compound packets with a malformed packet in them.
    """

    __slots__ = ("malformed", "received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.malformed = 0
        self.sent = 0


class Reporter:
    """The RTCP of a call that sends one stream. Call `receive` for each compound packet, `poll_report` when it is due.

    `sender` is our stream, `sources` are those of the peer by SSRC. `random` returns the given number of random bytes.
    With `reduced_size`, feedback is sent without a report. Packets are plain, without SRTCP.
    """

    __slots__ = (
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
        sender: SentStream,
        sources: Mapping[int, ReceivedSource],
        cname: str,
        random: Callable[[int], bytes],
        *,
        reduced_size: bool = False,
    ) -> None:
        self.counters = ReporterCounters()
        self.sender = sender
        self.sources = sources
        self.peer_report: ReportBlock | None = None
        """The peer's last report block on our stream."""
        self.round_trip: float | None = None
        """Round-trip time in seconds, from the peer's last report that refers to one of ours."""
        self._random = random
        self._reduced_size = reduced_size
        self._description = SourceDescription((SdesChunk(sender.ssrc, (SdesItem(SdesItem.CNAME, cname.encode()),)),))
        self._next_report = inf
        self._reported_at = 0.0

    def start(self, now: float) -> None:
        """Begin to send reports. The first is due after half an interval (RFC 3550 §6.2)."""
        self._reported_at = now
        self._next_report = now + self._random_interval() / 2

    def receive(self, data: bytes, now: float) -> Sequence[RtcpPacket]:
        """Handle one authenticated compound packet, and return its packets.

        Malformed packets in it are left out, and the compound counts as malformed.
        """
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
        """Return when the next report is due; infinity before `start` and after the BYE."""
        return self._next_report

    def wrap(self, feedback: Sequence[RtcpPacket]) -> bytes:
        """Return feedback as it may be sent: alone, or after an empty report and a CNAME (RFC 4585 §3.1)."""
        if self._reduced_size:
            return encode_rtcp(feedback)
        return encode_rtcp((ReceiverReport(self.sender.ssrc), self._description, *feedback))

    def bye(self) -> bytes:
        """Return the compound packet that ends our stream (RFC 3550 §6.6). No report is due after it."""
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

    def _receive_blocks(self, blocks: tuple[ReportBlock, ...], now: float) -> None:
        for block in blocks:
            if block.ssrc != self.sender.ssrc:
                continue
            self.peer_report = block
            if block.last_sr:
                arrival = self.sender.ntp_time(now) >> 16 & 0xFFFFFFFF
                # Rounding can make the round trip of a nearby peer negative (RFC 3550 §6.4.1).
                self.round_trip = max(0, difference32(arrival - block.delay, block.last_sr)) / 65536

    def _random_interval(self) -> float:
        """Return the mean times 0.5 to 1.5, which keeps members from sending at the same time (RFC 3550 §6.2)."""
        return REPORT_INTERVAL * (0.5 + int.from_bytes(self._random(2), "big") / 65536)
