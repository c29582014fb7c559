"""Receives the RTP packets of a peer: records each packet once, for reports, transport-wide feedback and NACKs."""

from collections.abc import Sequence
from math import inf
from typing import Any

from antiphon_common.rtp_extensions import TRANSPORT_SEQUENCE
from antiphon_transceiver.rtcp.feedback import Feedback, GenericNack
from antiphon_transceiver.rtcp.packets import MAX_REPORT_BLOCKS, Bye, RtcpPacket
from antiphon_transceiver.rtp.fields import FieldReader
from antiphon_transceiver.rtp.nack import NackGenerator
from antiphon_transceiver.rtp.options import NACK, TRANSPORT_CC, RtpOptions
from antiphon_transceiver.rtp.packet import RtpPacket
from antiphon_transceiver.rtp.sender import RtpSender
from antiphon_transceiver.rtp.statistics import ReceiverStatistics
from antiphon_transceiver.rtp.twcc import TwccReceiver

MAX_SOURCES = MAX_REPORT_BLOCKS
"""Sources with statistics: as many as fit in one report. A new one replaces the least recently received one."""


class RtpReceiver:
    """Records the packets of all sources of a peer. Call `receive` for each packet, and `poll_feedback` when it is due.

    `clock_rate` is in RTP ticks a second. Feedback is due when a packet arrives at or after `feedback_at`, otherwise at
    `poll_timeout`.
    """

    __slots__ = ("_clock_rate", "_nack", "_newest_source", "_reader", "_twcc", "deadline", "feedback_at", "sources")

    def __init__(self, clock_rate: int) -> None:
        self.sources: dict[int, ReceiverStatistics] = {}
        """Statistics of each source, by SSRC."""
        self.feedback_at = self.deadline = inf
        """When a packet that arrives triggers feedback, and what `poll_timeout` returns."""
        self._clock_rate = clock_rate
        self._newest_source = 0
        self.negotiate(RtpOptions())

    def negotiate(self, options: RtpOptions) -> None:
        """Send the feedback of `options` from the next packet on."""
        number = options.extensions.get(TRANSPORT_SEQUENCE)
        self._reader = FieldReader(number or 0, 2)
        self._twcc = TwccReceiver() if number is not None and TRANSPORT_CC in options.feedback else None
        self._nack = NackGenerator() if NACK in options.feedback else None
        self.deadline = inf

    @property
    def requested(self) -> int:
        """Packets requested by NACKs."""
        return 0 if self._nack is None else self._nack.requested

    @property
    def recovered(self) -> int:
        """Packets received after they had been requested."""
        return 0 if self._nack is None else self._nack.recovered

    @property
    def unreported(self) -> int:
        """Packets that transport-wide feedback did not report: too many at once, or too late."""
        return 0 if self._twcc is None else self._twcc.dropped

    def receive(self, packet: RtpPacket, now: float, *, timed: bool = True) -> int:
        """Record an authenticated packet, and return its extended sequence number (RFC 3550 A.1).

        A packet that is not `timed` does not count for the jitter, since its timestamp is not when it was sent. An
        example is a telephone event (RFC 4733 §2.2.1).
        """
        ssrc = packet.ssrc
        source = self.sources.get(ssrc)
        if source is None:
            source = self._add_source(ssrc)
        extended = source.packet_received(packet.sequence, packet.timestamp, now, timed=timed)
        nack = self._nack
        if nack is not None:
            if ssrc != self._newest_source or source.received == 1:
                nack.restart()
            nack.received(extended, now)
        self._newest_source = ssrc
        self.record_arrival(packet, now)
        return extended

    def record_arrival(self, packet: RtpPacket, now: float) -> None:
        """Record a packet for transport-wide feedback alone. Its source has no statistics and no NACKs."""
        twcc, nack = self._twcc, self._nack
        at = deadline = inf
        if twcc is not None:
            if packet.extension_profile is not None:
                number = self._reader.read(packet.extension_profile, packet.extension_data)
                if number is not None:
                    twcc.received(number, now)
            at, deadline = twcc.due, twcc.deadline
        if nack is not None:
            at, deadline = min(at, nack.due), min(deadline, nack.due)
        self.feedback_at, self.deadline = at, deadline

    def receive_rtcp(self, packet: RtcpPacket) -> None:
        """Remove the sources of a BYE. Other packets are ignored."""
        if isinstance(packet, Bye):
            for ssrc in packet.sources:
                self.sources.pop(ssrc, None)

    def poll_feedback(self, ssrc: int, now: float, maximum_wait: float, round_trip: float | None) -> Sequence[Feedback]:
        """Return the feedback that is due.

        `ssrc` is our own source. A missing packet is useful for `maximum_wait` seconds. A retransmission takes
        `round_trip` seconds, or an unknown time if that is None.
        """
        feedback: list[Feedback] = []
        twcc, nack = self._twcc, self._nack
        self.feedback_at = self.deadline = inf
        if twcc is not None:
            if now >= twcc.due and (report := twcc.feedback(ssrc, self._newest_source)) is not None:
                feedback.append(report)
            self.feedback_at, self.deadline = twcc.due, twcc.deadline
        if nack is not None:
            if now >= nack.due and (missing := nack.poll(now, maximum_wait, round_trip)):
                numbers = tuple(number & 0xFFFF for number in missing)
                feedback.append(GenericNack(ssrc, self._newest_source, numbers))
            self.feedback_at, self.deadline = min(self.feedback_at, nack.due), min(self.deadline, nack.due)
        return feedback

    def poll_timeout(self) -> float:
        """Return when `poll_feedback` is due even if no packet arrives; infinity for never."""
        return self.deadline

    def _add_source(self, ssrc: int) -> ReceiverStatistics:
        if len(self.sources) >= MAX_SOURCES:
            oldest = min(self.sources.values(), key=lambda source: source.last_received_at or 0.0)
            del self.sources[oldest.ssrc]
        source = self.sources[ssrc] = ReceiverStatistics(ssrc, self._clock_rate)
        return source


def feedback_statistics(sender: RtpSender, receiver: RtpReceiver) -> dict[str, Any]:
    """Return the statistics of feedback, both directions. Times are in milliseconds; None if it was not negotiated."""
    retransmissions = sender.retransmission_statistics()
    return {
        "sent_feedback": sender.twcc_statistics(),
        "nack": None
        if retransmissions is None
        else {**retransmissions, "requested": receiver.requested, "recovered": receiver.recovered},
    }
