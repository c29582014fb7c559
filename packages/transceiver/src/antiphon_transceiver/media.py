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
"""Sources remembered that sent a BYE: their stragglers come before a caller has changed so often."""

STRAGGLER_SECONDS = 1.0
"""How long packets of a source that sent a BYE are stragglers, beside those of another one. Devices take up an old
source again after a hold, and are then received as before it."""

_NO_REDUNDANCY: Sequence[RedundantBlock] = ()


class MediaCounters:
    """What happened to packets that passed SRTP."""

    __slots__ = ("ended_source", "other_payload", "rtp_bad", "rtp_received", "rtp_sent")

    def __init__(self) -> None:
        self.rtp_received = 0
        self.rtp_sent = 0
        self.rtp_bad = 0
        self.other_payload = 0
        self.ended_source = 0


class AudioStream:
    """Plain packets on one side, audio frames on the other; SRTP and the network are the session's.

    `format` is what the backend speaks (`opus` or `pcm16/RATE`). `ntp_offset` added to `now` gives seconds of NTP time.
    `options` say which header extensions and which feedback were negotiated.
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
        """SSRC of the audio in the uplink. It stays after a BYE, since the same source may go on."""
        self._ended: dict[int, float] = {}
        """When the BYE of a source came."""
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
        """Our source, which the answer announces."""
        return self.sender.ssrc

    def start(self, now: float) -> None:
        """Begin to report and to play; what was appended before waited."""
        self.reporter.start(now)

    def receive_rtp(self, packet: bytes, now: float) -> bool:
        """Take one decrypted RTP packet. What is not the negotiated audio is counted and dropped; within the audio's
        source it still arrived: it is not lost, nor is audio missing in its place. Return True when `poll_feedback` has
        something."""
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
        """Take one decrypted RTCP packet, compound or not. Return True if the caller's stream ended with it.

        Packets that the BYE overtook keep their place in the uplink. A browser that replaces its track sends a BYE and
        goes on with the same source: its packets keep their place too.
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
        """Return the next stretch of the caller's audio that is due."""
        return self.uplink.poll(now)

    def poll_rtp(self, now: float) -> bytes | None:
        """Return the next RTP packet whose time to leave has come."""
        packet = self.playout.poll(now)
        if packet is None:
            return None
        payload = packet.payload if self._red_type is None else self._repeat(packet, self._red_type)
        self.counters.rtp_sent += 1
        return self.sender.packet(payload, packet.timestamp, now, marker=packet.marker)

    def poll_timeout(self, *, sends: bool) -> float:
        """Return when `poll_frame` wants to be called and, where the stream `sends`, `poll_rtp` and `poll_feedback`;
        infinity for never."""
        uplink = self.uplink.jitter.poll_timeout()
        return min(uplink, self.playout.poll_timeout(), self.receiver.poll_timeout()) if sends else uplink

    def poll_rtcp(self, now: float) -> bytes | None:
        return self.reporter.poll_report(now)

    def poll_feedback(self, now: float) -> bytes | None:
        """Return the feedback on the caller's packets that is due."""
        feedback = self.receiver.poll_feedback(
            self.sender.ssrc, now, self.uplink.jitter.target_delay, self.reporter.round_trip
        )
        return self.reporter.wrap(feedback) if feedback else None

    def bye(self) -> bytes:
        """Return the compound packet that ends the stream (RFC 3550 §6.6)."""
        return self.reporter.bye()

    def _receive_other(self, rtp: RtpPacket, now: float) -> bool:
        """Take a packet of another payload type: comfort noise (RFC 3389), telephone events (RFC 4733), whatever."""
        self.counters.other_payload += 1
        return self._acknowledge(rtp, now, without_audio=True)

    def _acknowledge(self, rtp: RtpPacket, now: float, *, without_audio: bool = False) -> bool:
        """Record a packet without usable audio as received. Return True when `poll_feedback` has something.

        No audio is missing in place of one `without_audio`. A packet of another source than the audio's counts for
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
        """Whether a packet of a source is a straggler that its BYE overtook (RFC 3550 §6.2.1)."""
        return source in self._ended and now < self._ended[source] + STRAGGLER_SECONDS

    def _follow(self, source: int, now: float) -> bool:
        """Turn to another source. Return False where the packet is a straggler."""
        if self._has_ended(source, now):
            self.counters.ended_source += 1
            return False
        if self._source is not None:
            self.uplink.restart()
        self._source = source
        return True

    def _repeat(self, packet: PlayoutPacket, red_type: int) -> bytes:
        """Add to a packet what it is to repeat of those before it."""
        offsets = self.adaptation.redundancy_offsets
        if not offsets:
            self.sender.payload_type = self._payload_type
            self._red.remember(packet.payload, packet.timestamp)
            return packet.payload
        self.sender.payload_type = red_type
        return self._red.encode(packet.payload, packet.timestamp, offsets)

    def statistics(self) -> dict[str, Any]:
        """Return what is known of the media, both directions; times in milliseconds."""
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
        """Return how loud the newest packet said it was, in dBov, 0 to -127 (RFC 6464 §3)."""
        if self._newest is None or self._level_id is None:
            return None
        try:
            level = self._newest.extensions.get(self._level_id)
        except DecodeError:
            return None
        return -(level[0] & 0x7F) if level else None
