"""The audio of one call: RTP in and out with its RTCP reports, a jitter buffer and codec up, paced playout down."""

from collections.abc import Callable, Sequence
from typing import Any

from antiphon_common.control import Codec
from antiphon_common.errors import DecodeError
from antiphon_common.rtp_extensions import AUDIO_LEVEL
from antiphon_transceiver.audio import Playout, PlayoutPacket, SendAdaptation, UplinkAudio, UplinkFrame
from antiphon_transceiver.rtcp import Bye, ReportBlock, Reporter
from antiphon_transceiver.rtp import (
    OtherPayloadError,
    RedEncoder,
    RedundantBlock,
    RtpOptions,
    RtpPacket,
    RtpReceiver,
    RtpSender,
    decode_red,
    decode_rtp,
    feedback_statistics,
)

MAX_ENDED_SOURCES = 8
"""Sources remembered after their BYE. Packets still under way arrive before a caller has changed its source more often
than that."""

STRAGGLER_SECONDS = 1.0
"""Seconds after a BYE in which packets of its source count as overtaken by it and are dropped. Later they are received
again: some devices use an old source again after a hold."""

_NO_REDUNDANCY: Sequence[RedundantBlock] = ()


class MediaCounters:
    """Counters of the RTP packets of a call: those received, after SRTP, and those sent.

    `AudioStream` counts them. `rtp_bad` counts malformed packets, `other_payload` packets of other payload types, and
    `ended_source` packets that a BYE overtook.
    """

    __slots__ = ("ended_source", "other_payload", "rtp_bad", "rtp_received", "rtp_sent")

    def __init__(self) -> None:
        self.rtp_received = 0
        self.rtp_sent = 0
        self.rtp_bad = 0
        self.other_payload = 0
        self.ended_source = 0


class AudioStream:
    """The audio of one call: RTP and RTCP packets without SRTP on one side, audio of the backend on the other.

    Call `start` when the call is connected. Pass packets to `receive_rtp` and `receive_rtcp`. Append the backend's
    audio to `playout`. Call `poll_frame`, `poll_rtp`, `poll_rtcp` and `poll_feedback` until each returns None.

    `format` is the backend's: `opus` or `pcm16/RATE`. `ntp_offset` added to `now` gives seconds of NTP time. `options`
    are the negotiated header extensions and feedback.
    """

    def __init__(
        self,
        codec: Codec,
        format: str,
        cname: str,
        random: Callable[[int], bytes],
        ntp_offset: float,
        options: RtpOptions | None = None,
    ) -> None:
        self.counters = MediaCounters()
        self.uplink = UplinkAudio(format, codec.name)
        self.playout = Playout(format, codec.name)
        self.adaptation = SendAdaptation(codec, self.playout.encoder)
        self._payload_type = codec.payload_type
        self._red_type = codec.redundancy
        self._red = RedEncoder(codec.payload_type)
        self._source: int | None = None
        """SSRC of the audio in the uplink. A BYE does not clear it, since the same source may go on."""
        self._ended: dict[int, float] = {}
        """When the BYE of each source was received, by SSRC."""
        self._adapted_to: ReportBlock | None = None
        options = options or RtpOptions()
        self.sender = RtpSender.start(codec.payload_type, random, clock_rate=codec.clock_rate, ntp_offset=ntp_offset)
        self.sender.negotiate(options)
        self.receiver = RtpReceiver(codec.clock_rate)
        self.receiver.negotiate(options)
        self.reporter = Reporter(
            self.sender.statistics, self.receiver.sources, cname, random, reduced_size=options.reduced_size
        )
        self._level_id = options.extensions.get(AUDIO_LEVEL)
        self._newest: RtpPacket | None = None

    @property
    def ssrc(self) -> int:
        """The SSRC of our stream. The answer contains it."""
        return self.sender.ssrc

    def start(self, now: float) -> None:
        """Begin to send reports."""
        self.reporter.start(now)

    def receive_rtp(self, packet: bytes, now: float) -> bool:
        """Handle one decrypted RTP packet. Return True when feedback is due.

        Packets of other payload types are counted and dropped. Those of the audio's source count as received, and no
        audio is concealed in their place.
        """
        try:
            rtp = decode_rtp(packet)
        except DecodeError:
            self.counters.rtp_bad += 1
            return False
        payload, redundant = rtp.payload, _NO_REDUNDANCY
        if rtp.payload_type != self._payload_type:
            if rtp.payload_type != self._red_type:
                return self._receive_other(rtp, now)
            try:
                if payload:  # else padding
                    payload, redundant = decode_red(payload, self._payload_type)
            except OtherPayloadError:
                return self._receive_other(rtp, now)
            except DecodeError:
                self.counters.rtp_bad += 1
                return self._acknowledge(rtp, now)
        if rtp.ssrc != self._source and not self._follow(rtp.ssrc, now):
            return False
        self.counters.rtp_received += 1
        receiver = self.receiver
        extended = receiver.receive(rtp, now)
        self._newest = rtp
        self.uplink.jitter.push(extended, rtp.timestamp, payload, now, redundant)
        return now >= receiver.feedback_at

    def receive_rtcp(self, packet: bytes, now: float) -> bool:
        """Handle one decrypted RTCP packet, compound or not. Return True if it ends the caller's stream.

        Packets that the BYE overtook keep their place in the uplink. So do packets of the same source after the BYE: a
        browser that replaces its track sends a BYE and goes on with the same source.
        """
        ended, flowing = False, self._source in self.receiver.sources
        for part in self.reporter.receive(packet, now):
            self.sender.receive_feedback(part, now)
            self.receiver.receive_rtcp(part)
            ended = ended or (flowing and isinstance(part, Bye) and self._source in part.sources)
        if ended and self._source is not None:
            self._remember_end(self._source, now)
        report = self.reporter.peer_report
        if report is not None and report is not self._adapted_to:
            self._adapted_to = report
            self.adaptation.report(round(report.fraction_lost / 2.56), self.sender.burst_ratio)
        return ended

    def poll_frame(self, now: float) -> UplinkFrame | None:
        """Return the next frame of the caller's audio that is due, or None."""
        return self.uplink.poll(now)

    def poll_rtp(self, now: float) -> bytes | None:
        """Return the next RTP packet that is due, or None."""
        packet = self.playout.poll(now)
        if packet is None:
            return None
        payload = packet.payload if self._red_type is None else self._repeat(packet, self._red_type)
        self.counters.rtp_sent += 1
        return self.sender.packet(payload, packet.timestamp, now, marker=packet.marker)

    def poll_timeout(self, *, sends: bool) -> float:
        """Return when `poll_frame` is due; if the stream `sends`, also `poll_rtp` and `poll_feedback`. Infinity for
        never."""
        uplink = self.uplink.jitter.poll_timeout()
        return min(uplink, self.playout.poll_timeout(), self.receiver.poll_timeout()) if sends else uplink

    def poll_rtcp(self, now: float) -> bytes | None:
        """Return the compound packet with the report that is due, or None."""
        return self.reporter.poll_report(now)

    def poll_feedback(self, now: float) -> bytes | None:
        """Return the RTCP packet with the feedback on the caller's packets that is due, or None."""
        feedback = self.receiver.poll_feedback(
            self.sender.ssrc, now, self.uplink.jitter.target_delay, self.reporter.round_trip
        )
        return self.reporter.wrap(feedback) if feedback else None

    def bye(self) -> bytes:
        """Return the compound packet that ends the stream (RFC 3550 §6.6)."""
        return self.reporter.bye()

    def _receive_other(self, rtp: RtpPacket, now: float) -> bool:
        """Count a packet of another payload type, such as comfort noise (RFC 3389) or telephone events (RFC 4733)."""
        self.counters.other_payload += 1
        return self._acknowledge(rtp, now, without_audio=True)

    def _acknowledge(self, rtp: RtpPacket, now: float, *, without_audio: bool = False) -> bool:
        """Record a packet without usable audio as received. Return True when feedback is due.

        If it is `without_audio`, no audio is concealed in its place. A packet of another source counts for
        transport-wide feedback alone.
        """
        receiver = self.receiver
        if rtp.ssrc == self._source and not self._has_ended(rtp.ssrc, now):
            extended = receiver.receive(rtp, now, timed=False)
            if without_audio:
                self.uplink.skip(extended)
        else:
            receiver.record_arrival(rtp, now)
        return now >= receiver.feedback_at

    def _remember_end(self, source: int, now: float) -> None:
        self._ended.pop(source, None)
        if len(self._ended) >= MAX_ENDED_SOURCES:
            del self._ended[next(iter(self._ended))]
        self._ended[source] = now

    def _has_ended(self, source: int, now: float) -> bool:
        """Return True if a packet of a source was overtaken by its BYE (RFC 3550 §6.2.1)."""
        return source in self._ended and now < self._ended[source] + STRAGGLER_SECONDS

    def _follow(self, source: int, now: float) -> bool:
        """Switch the uplink to another source. Return False if the packet was overtaken by the source's BYE."""
        if self._has_ended(source, now):
            self.counters.ended_source += 1
            return False
        if self._source is not None:
            self.uplink.restart()
        self._source = source
        return True

    def _repeat(self, packet: PlayoutPacket, red_type: int) -> bytes:
        """Return the payload with the redundant blocks of the present offsets, and set the payload type to match."""
        offsets = self.adaptation.redundancy_offsets
        if not offsets:
            self.sender.payload_type = self._payload_type
            self._red.remember(packet.payload, packet.timestamp)
            return packet.payload
        self.sender.payload_type = red_type
        return self._red.encode(packet.payload, packet.timestamp, offsets)

    def statistics(self) -> dict[str, Any]:
        """Return the statistics of both directions. Times are in milliseconds; None where nothing was reported."""
        sources = self.receiver.sources.values()
        jitter = self.uplink.jitter.counters
        peer = self.reporter.peer_report
        round_trip = self.reporter.round_trip
        return {
            "round_trip_ms": None if round_trip is None else round(round_trip * 1000, 1),
            "received_packets": self.counters.rtp_received,
            "received_lost": sum(source.packets_lost for source in sources),
            "received_loss_percent": round(100 * max((source.loss for source in sources), default=0.0), 1),
            "received_jitter_ms": round(max((source.jitter for source in sources), default=0.0) * 1000, 1),
            "received_level_dbov": self._level(),
            "sent_packets": self.counters.rtp_sent,
            "sent_lost": None if peer is None else peer.packets_lost,
            "sent_loss_percent": None if peer is None else round(peer.fraction_lost / 2.56, 1),
            "sent_jitter_ms": None
            if peer is None
            else round(1000 * peer.jitter / self.sender.statistics.clock_rate, 1),
            **feedback_statistics(self.sender, self.receiver),
            "uplink": {name: getattr(jitter, name) for name in jitter.__slots__},
            "uplink_target_ms": round(self.uplink.jitter.target_delay * 1000),
            "sent_repetitions": len(self.adaptation.redundancy_offsets),
        }

    def _level(self) -> int | None:
        """Return the audio level of the newest packet in dBov, 0 to -127 (RFC 6464 §3), or None."""
        if self._newest is None or self._level_id is None:
            return None
        try:
            level = self._newest.extensions.get(self._level_id)
        except DecodeError:
            return None
        return -(level[0] & 0x7F) if level else None
