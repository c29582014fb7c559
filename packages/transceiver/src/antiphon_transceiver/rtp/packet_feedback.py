"""What two ends tell each other of single packets: arrival times, and losses to be made good."""

from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Any

from antiphon_common.rtp_extensions import TRANSPORT_SEQUENCE
from antiphon_transceiver.rtcp.feedback import Feedback, GenericNack, TransportFeedback
from antiphon_transceiver.rtcp.packets import RtcpPacket
from antiphon_transceiver.rtp.fields import ExtensionWriter, FieldReader
from antiphon_transceiver.rtp.nack import MissingPackets, SentPackets
from antiphon_transceiver.rtp.options import RtpOptions
from antiphon_transceiver.rtp.packet import RtpPacket
from antiphon_transceiver.rtp.twcc import TransportReceiver, TransportSender

NACK, TRANSPORT_CC = "nack", "transport-cc"
"""Values of `a=rtcp-fb` (RFC 4585 §4.2)."""

MAX_ASKED = 64
"""Packets that are looked up at one instant, whatever number of NACKs asks for them: as many as are kept."""


class PacketFeedback:
    """The feedback of a call on the packets of both directions, as far as it was negotiated; without IO.

    `ssrc` is our own source. For each packet of ours call `extension`, then `sent` with its protected bytes; for each
    of the peer's `received`, and where that says so, `poll`.
    """

    def __init__(self, options: RtpOptions, ssrc: int) -> None:
        self._ssrc = ssrc
        self._source = 0
        self._writer = ExtensionWriter(options.extensions, options.mid)
        number = options.extensions.get(TRANSPORT_SEQUENCE)
        numbered = number is not None and TRANSPORT_CC in options.feedback
        self._reader = FieldReader(number or 0, 2)
        self._arriving = TransportReceiver() if numbered else None
        self._leaving = TransportSender() if numbered else None
        self._kept = SentPackets() if NACK in options.feedback else None
        self._missing = MissingPackets() if NACK in options.feedback else None
        self._resends: deque[bytes] = deque(maxlen=MAX_ASKED)
        self._asked = 0
        self._asked_at = -inf
        """How many packets NACKs asked for, and when."""

    @property
    def next_transport_sequence(self) -> int:
        """The transport-wide sequence number of our next packet."""
        return self._writer.sequence

    # Packets of ours

    def extension(self, now: float) -> bytes:
        """Return the header extension of the next packet, which leaves now."""
        if self._leaving is not None:
            self._leaving.sent(self._writer.sequence, now)
        return self._writer.write(now)

    def sent(self, protected: bytes, now: float) -> None:
        """Keep a packet as it left."""
        if self._kept is not None:
            self._kept.store(protected, now)

    def receive(self, packet: RtcpPacket, now: float) -> None:
        """Take one RTCP packet of the peer, whatever it is."""
        if isinstance(packet, TransportFeedback):
            if self._leaving is not None:
                self._leaving.feedback_received(packet, now)
        elif isinstance(packet, GenericNack) and self._kept is not None and packet.media_ssrc == self._ssrc:
            self._resend(self._kept, packet.sequences, now)

    def _resend(self, kept: SentPackets, sequences: Sequence[int], now: float) -> None:
        if now > self._asked_at:
            self._asked, self._asked_at = 0, now
        for sequence in sequences[: MAX_ASKED - self._asked]:
            self._asked += 1
            again = kept.take(sequence, now)
            if again is not None:
                self._resends.append(again)

    @property
    def losses_in_runs(self) -> float:
        """The share of lost packets of ours, 0 to 1, right before which another was lost; 0 where nothing tells."""
        return 0.0 if self._leaving is None else self._leaving.in_runs

    def poll_resend(self) -> bytes | None:
        """Return a protected packet that must leave again."""
        return self._resends.popleft() if self._resends else None

    # Packets of the peer

    def received(self, packet: RtpPacket, now: float, *, of_source: bool = True) -> bool:
        """Count a packet; tell whether feedback should leave now. One that is not `of_source`, the audio's, counts for
        transport-wide feedback alone."""
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

    def poll(self, now: float, patience: float, round_trip: float | None) -> Sequence[Feedback]:
        """Return the feedback that is due. A packet is waited for `patience` seconds once it is missed."""
        feedback: list[Feedback] = []
        if self._arriving is not None and now >= self._arriving.due:
            told = self._arriving.feedback(self._ssrc, self._source)
            feedback += [told] if told is not None else []
        if self._missing is not None and now >= self._missing.due:
            asked = self._missing.poll(now, patience, round_trip)
            feedback += [GenericNack(self._ssrc, self._source, tuple(asked))] if asked else []
        return feedback

    def poll_timeout(self) -> float:
        """Return when `poll` is due although nothing arrived; infinity for never."""
        due = inf if self._arriving is None else self._arriving.deadline
        if self._missing is not None:
            due = min(due, self._missing.due)
        return due

    def statistics(self) -> dict[str, Any]:
        """Return what was learned; times in milliseconds, None where it was not negotiated."""
        leaving, kept, missing = self._leaving, self._kept, self._missing
        delay = None if leaving is None else leaving.delay
        return {
            "sent_feedback": None
            if leaving is None
            else {
                "received": leaving.received,
                "lost": leaving.lost,
                "loss_percent": round(100 * leaving.loss, 1),
                "in_runs_percent": round(100 * leaving.in_runs, 1),
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
