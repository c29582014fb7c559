"""Sends one RTP stream: makes its packets, evaluates the peer's feedback, and retransmits."""

import struct
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Self

from antiphon_common.rtp_extensions import TRANSPORT_SEQUENCE
from antiphon_transceiver.rtcp.feedback import GenericNack, TransportFeedback
from antiphon_transceiver.rtcp.packets import RtcpPacket
from antiphon_transceiver.rtp.fields import ExtensionWriter
from antiphon_transceiver.rtp.nack import RetransmissionBuffer
from antiphon_transceiver.rtp.options import NACK, TRANSPORT_CC, RtpOptions
from antiphon_transceiver.rtp.statistics import SenderStatistics
from antiphon_transceiver.rtp.twcc import TwccSender

MAX_REQUESTED = 64
"""Retransmissions looked up at one instant, by any number of NACKs: as many as packets are stored."""

_HEADER = struct.Struct("!BBHII")


class RtpSender:
    """The RTP stream that we send, which is one source (SSRC). Times are in seconds.

    Call `packet` for each packet, `sent` with its protected bytes, and `receive_feedback` for each RTCP packet.

    The first sequence number is the low 15 bits of `sequence`. So the number does not wrap while a receiver that misses
    the first packets could estimate a wrong rollover counter (RFC 3711 §3.3.1). `timestamp` is added to the timestamps
    of packets. `clock_rate` is in RTP ticks a second. `ntp_offset` added to `now` gives seconds of NTP time.
    """

    __slots__ = (
        "_requested",
        "_requested_at",
        "_retransmissions",
        "_stored",
        "_timestamp",
        "_twcc",
        "_writer",
        "payload_type",
        "sequence",
        "ssrc",
        "statistics",
    )

    def __init__(
        self,
        ssrc: int,
        payload_type: int,
        sequence: int,
        *,
        timestamp: int = 0,
        clock_rate: int = 48_000,
        ntp_offset: float = 0.0,
    ) -> None:
        self.ssrc = ssrc
        self.sequence = sequence & 0x7FFF
        """The sequence number of the next packet."""
        self.payload_type = payload_type
        """The payload type of the next packet. It may change within a stream (RFC 3550 §5.1)."""
        self.statistics = SenderStatistics(ssrc, clock_rate, ntp_offset)
        self._timestamp = timestamp
        self._retransmissions: deque[bytes] = deque(maxlen=MAX_REQUESTED)
        self._requested = 0
        self._requested_at = -inf
        """When NACKs were last received. `_requested` counts the packets that they requested at that instant."""
        self.negotiate(RtpOptions())

    @classmethod
    def start(
        cls,
        payload_type: int,
        random: Callable[[int], bytes],
        *,
        clock_rate: int = 48_000,
        ntp_offset: float = 0.0,
    ) -> Self:
        """Return a stream with random numbers (RFC 3550 §5.1). `random` returns the given number of random bytes."""
        ssrc, timestamp, sequence = struct.unpack("!IIH", random(10))
        return cls(ssrc, payload_type, sequence, timestamp=timestamp, clock_rate=clock_rate, ntp_offset=ntp_offset)

    def negotiate(self, options: RtpOptions) -> None:
        """Use the header extensions and the feedback of `options` from the next packet on."""
        self._writer = ExtensionWriter(options.extensions, options.mid)
        numbered = TRANSPORT_SEQUENCE in options.extensions and TRANSPORT_CC in options.feedback
        self._twcc = TwccSender() if numbered else None
        self._stored = RetransmissionBuffer() if NACK in options.feedback else None

    @property
    def next_transport_sequence(self) -> int:
        """The transport-wide sequence number of the next packet, 16 bits."""
        return self._writer.sequence

    @property
    def resent(self) -> int:
        """Packets retransmitted."""
        return 0 if self._stored is None else self._stored.resent

    @property
    def refused(self) -> int:
        """Requests for packets that are unknown, too old, or retransmitted too recently or too often."""
        return 0 if self._stored is None else self._stored.refused

    @property
    def burst_ratio(self) -> float:
        """The share of lost packets, 0 to 1, whose predecessor was lost too; 0 without transport-wide feedback."""
        return 0.0 if self._twcc is None else self._twcc.burst_ratio

    def packet(self, payload: bytes, timestamp: int, now: float = 0.0, *, marker: bool = False) -> bytes:
        """Return the next packet, which is sent `now`.

        `timestamp` is in RTP ticks since the stream began and may exceed 32 bits.
        """
        sequence = self.sequence
        self.sequence = sequence + 1 & 0xFFFF
        writer = self._writer
        if self._twcc is not None:
            self._twcc.sent(writer.sequence, now)
        extension = writer.write(now)
        rtp_timestamp = self._timestamp + timestamp & 0xFFFFFFFF
        self.statistics.packet_sent(rtp_timestamp, len(payload), now)
        second = self.payload_type | 0x80 if marker else self.payload_type
        header = _HEADER.pack(0x90 if extension else 0x80, second, sequence, rtp_timestamp, self.ssrc)
        return header + extension + payload

    def sent(self, protected: bytes, now: float) -> None:
        """Store a packet as it was sent, for retransmission."""
        if self._stored is not None:
            self._stored.store(protected, now)

    def receive_feedback(self, packet: RtcpPacket, now: float) -> None:
        """Evaluate one RTCP packet of the peer. Only feedback has an effect."""
        if isinstance(packet, TransportFeedback):
            if self._twcc is not None:
                self._twcc.feedback_received(packet, now)
        elif isinstance(packet, GenericNack) and self._stored is not None and packet.media_ssrc == self.ssrc:
            self._retransmit(self._stored, packet.sequences, now)

    def poll_retransmission(self) -> bytes | None:
        """Return the next protected packet to retransmit, or None."""
        return self._retransmissions.popleft() if self._retransmissions else None

    def _retransmit(self, stored: RetransmissionBuffer, sequences: Sequence[int], now: float) -> None:
        if now > self._requested_at:
            self._requested, self._requested_at = 0, now
        for sequence in sequences[: MAX_REQUESTED - self._requested]:
            self._requested += 1
            packet = stored.take(sequence, now)
            if packet is not None:
                self._retransmissions.append(packet)

    def twcc_statistics(self) -> dict[str, Any] | None:
        """Return the statistics of transport-wide feedback, or None if it was not negotiated. Times are in
        milliseconds."""
        twcc = self._twcc
        if twcc is None:
            return None
        return {
            "received": twcc.received,
            "lost": twcc.lost,
            "loss_percent": round(100 * twcc.loss, 1),
            "in_runs_percent": round(100 * twcc.burst_ratio, 1),
            "delay_ms": None if twcc.delay is None else round(1000 * twcc.delay, 1),
        }

    def retransmission_statistics(self) -> dict[str, int] | None:
        """Return how many packets were retransmitted and refused, or None if NACK was not negotiated."""
        return None if self._stored is None else {"resent": self.resent, "refused": self.refused}
