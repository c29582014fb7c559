"""Feedback on single packets, both directions: transport-wide feedback, and NACKs with retransmissions."""

from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Any

from antiphon_common.rtp_extensions import TRANSPORT_SEQUENCE
from antiphon_transceiver.rtcp.feedback import Feedback, GenericNack, TransportFeedback
from antiphon_transceiver.rtcp.packets import RtcpPacket
from antiphon_transceiver.rtp.fields import ExtensionWriter, FieldReader
from antiphon_transceiver.rtp.nack import NackGenerator, RetransmissionBuffer
from antiphon_transceiver.rtp.options import RtpOptions
from antiphon_transceiver.rtp.packet import RtpPacket
from antiphon_transceiver.rtp.twcc import TwccReceiver, TwccSender

NACK, TRANSPORT_CC = "nack", "transport-cc"
"""Values of `a=rtcp-fb` (RFC 4585 §4.2)."""

MAX_REQUESTED = 64
"""Retransmissions looked up at one instant, whatever number of NACKs requests them: as many as are stored."""


class PacketFeedback:
    """The feedback of a call on the packets of both directions, as negotiated.

    `ssrc` is our own source. For each packet sent call `extension`, then `sent` with its protected bytes. For each
    packet received call `received`, and if that returns True, `poll`.
    """

    def __init__(self, options: RtpOptions, ssrc: int) -> None:
        self._ssrc = ssrc
        self._source = 0
        self._writer = ExtensionWriter(options.extensions, options.mid)
        number = options.extensions.get(TRANSPORT_SEQUENCE)
        numbered = number is not None and TRANSPORT_CC in options.feedback
        self._reader = FieldReader(number or 0, 2)
        self._arriving = TwccReceiver() if numbered else None
        self._leaving = TwccSender() if numbered else None
        self._kept = RetransmissionBuffer() if NACK in options.feedback else None
        self._missing = NackGenerator() if NACK in options.feedback else None
        self._resends: deque[bytes] = deque(maxlen=MAX_REQUESTED)
        self._requested = 0
        self._requested_at = -inf
        """Packets that NACKs requested at one instant, and that instant."""

    @property
    def next_transport_sequence(self) -> int:
        """The transport-wide sequence number of our next packet."""
        return self._writer.sequence

    # Packets of ours

    def extension(self, now: float) -> bytes:
        """Return the header extension of the next packet, which is sent now."""
        if self._leaving is not None:
            self._leaving.sent(self._writer.sequence, now)
        return self._writer.write(now)

    def sent(self, protected: bytes, now: float) -> None:
        """Store a packet as it was sent."""
        if self._kept is not None:
            self._kept.store(protected, now)

    def receive(self, packet: RtcpPacket, now: float) -> None:
        """Evaluate one RTCP packet of the peer. Packets other than feedback are ignored."""
        if isinstance(packet, TransportFeedback):
            if self._leaving is not None:
                self._leaving.feedback_received(packet, now)
        elif isinstance(packet, GenericNack) and self._kept is not None and packet.media_ssrc == self._ssrc:
            self._resend(self._kept, packet.sequences, now)

    def _resend(self, kept: RetransmissionBuffer, sequences: Sequence[int], now: float) -> None:
        if now > self._requested_at:
            self._requested, self._requested_at = 0, now
        for sequence in sequences[: MAX_REQUESTED - self._requested]:
            self._requested += 1
            again = kept.take(sequence, now)
            if again is not None:
                self._resends.append(again)

    @property
    def burst_ratio(self) -> float:
        """The share of lost packets, 0 to 1, whose predecessor was lost too; 0 without transport-wide feedback."""
        return 0.0 if self._leaving is None else self._leaving.burst_ratio

    def poll_resend(self) -> bytes | None:
        """Return the next protected packet to retransmit, or None."""
        return self._resends.popleft() if self._resends else None

    # Packets of the peer

    def received(self, packet: RtpPacket, now: float, *, of_source: bool = True) -> bool:
        """Record a packet. Return True if feedback is due now.

        A packet that is not `of_source`, the source of the audio, counts for transport-wide feedback alone.
        """
        due = False
        arriving = self._arriving
        if arriving is not None and packet.extension_profile is not None:
            number = self._reader.read(packet.extension_profile, packet.extension_data)
            if number is not None:
                arriving.received(number, now)
                due = now >= arriving.due
        missing = self._missing
        if not of_source:
            return due
        if missing is not None:
            if packet.ssrc != self._source:
                missing.restart()
            missing.received(packet.sequence, now)
            due = due or now >= missing.due
        self._source = packet.ssrc
        return due

    def poll(self, now: float, maximum_wait: float, round_trip: float | None) -> Sequence[Feedback]:
        """Return the feedback that is due. A packet is waited for `maximum_wait` seconds once it is missed."""
        feedback: list[Feedback] = []
        if self._arriving is not None and now >= self._arriving.due:
            report = self._arriving.feedback(self._ssrc, self._source)
            feedback += [report] if report is not None else []
        if self._missing is not None and now >= self._missing.due:
            missing = self._missing.poll(now, maximum_wait, round_trip)
            feedback += [GenericNack(self._ssrc, self._source, tuple(missing))] if missing else []
        return feedback

    def poll_timeout(self) -> float:
        """Return when `poll` is due although nothing arrived; infinity for never."""
        due = inf if self._arriving is None else self._arriving.deadline
        if self._missing is not None:
            due = min(due, self._missing.due)
        return due

    def statistics(self) -> dict[str, Any]:
        """Return the figures for people and programs; times in milliseconds, None for what was not negotiated."""
        leaving, kept, missing = self._leaving, self._kept, self._missing
        delay = None if leaving is None else leaving.delay
        return {
            "sent_feedback": None
            if leaving is None
            else {
                "received": leaving.received,
                "lost": leaving.lost,
                "loss_percent": round(100 * leaving.loss, 1),
                "in_runs_percent": round(100 * leaving.burst_ratio, 1),
                "delay_ms": None if delay is None else round(1000 * delay, 1),
            },
            "nack": None
            if kept is None or missing is None
            else {
                "resent": kept.resent,
                "refused": kept.refused,
                "requested": missing.requested,
                "recovered": missing.recovered,
            },
        }
