"""The audio of one call: RTP in and out with its RTCP reports, a jitter buffer and codec up, paced playout down."""

from collections.abc import Callable
from typing import Any

from antiphon_common.control import Codec
from antiphon_common.errors import DecodeError
from antiphon_transceiver.audio import Playout, UplinkAudio, UplinkFrame
from antiphon_transceiver.rtcp import ReportBlock, Reporter
from antiphon_transceiver.rtp import RtpSender, decode_rtp


class MediaCounters:
    """What happened to packets that passed SRTP."""

    __slots__ = ("other_payload", "rtp_bad", "rtp_received", "rtp_sent")

    def __init__(self) -> None:
        self.rtp_received = 0
        self.rtp_sent = 0
        self.rtp_bad = 0
        self.other_payload = 0


class AudioStream:
    """Plain packets on one side, audio frames on the other; SRTP and the network are the session's.

    `format` is what the backend speaks (`opus` or `pcm16/RATE`). `ntp_offset` added to `now` gives seconds of NTP time.
    """

    def __init__(
        self, codec: Codec, format: str, cname: str, random: Callable[[int], bytes], ntp_offset: float
    ) -> None:
        self.counters = MediaCounters()
        self.uplink = UplinkAudio(format)
        self.playout = Playout(format)
        self._payload_type = codec.payload_type
        self._source: int | None = None
        self._adapted_to: ReportBlock | None = None
        self._loss_percent = 0
        if self.playout.encoder is not None:
            self.playout.encoder.set_loss(0, fec=False)
        self._sender = RtpSender.start(codec.payload_type, random)
        self.reporter = Reporter(self._sender.ssrc, cname, codec.clock_rate, random, ntp_offset)

    @property
    def ssrc(self) -> int:
        """Our source, which the answer announces."""
        return self._sender.ssrc

    def start(self, now: float) -> None:
        """Begin to report and to play; what was appended before waited."""
        self.reporter.start(now)

    def receive_rtp(self, packet: bytes, now: float) -> None:
        """Take one decrypted RTP packet; anything that is not the negotiated audio is counted and dropped."""
        try:
            rtp = decode_rtp(packet)
        except DecodeError:
            self.counters.rtp_bad += 1
            return
        if rtp.payload_type != self._payload_type:
            self.counters.other_payload += 1
            return
        self.counters.rtp_received += 1
        if rtp.ssrc != self._source:
            if self._source is not None:
                self.uplink.restart()
            self._source = rtp.ssrc
        self.reporter.received_rtp(rtp, now)
        self.uplink.receive(rtp.sequence, rtp.timestamp, rtp.payload, now)

    def receive_rtcp(self, packet: bytes, now: float) -> None:
        """Take one decrypted compound RTCP packet."""
        self.reporter.receive(packet, now)
        report = self.reporter.peer_report
        if report is not None and report is not self._adapted_to:
            self._adapted_to = report
            self._adapt(round(report.fraction_lost / 2.56))

    def poll_frame(self, now: float) -> UplinkFrame | None:
        """Return the next stretch of the caller's audio that is due."""
        return self.uplink.poll(now)

    def poll_rtp(self, now: float) -> bytes | None:
        """Return the next RTP packet whose time to leave has come."""
        packet = self.playout.poll(now)
        if packet is None:
            return None
        self.counters.rtp_sent += 1
        self.reporter.sent_rtp(self._sender.rtp_timestamp(packet.timestamp), len(packet.payload), now)
        return self._sender.packet(packet.payload, packet.timestamp, packet.marker)

    def poll_rtcp(self, now: float) -> bytes | None:
        return self.reporter.poll_report(now)

    def goodbye(self) -> bytes:
        """Return the compound packet that ends the stream (RFC 3550 §6.6)."""
        return self.reporter.goodbye()

    def _adapt(self, percent: int) -> None:
        """Let the encoder add as much forward error correction as the caller's losses ask for. It costs a quarter of
        the encoding and of the bitrate, so there is none without losses, and it fades over a few reports."""
        encoder = self.playout.encoder
        percent = max(percent, self._loss_percent // 2)
        if encoder is not None and percent != self._loss_percent:
            self._loss_percent = percent
            encoder.set_loss(percent, fec=percent > 0)

    def statistics(self) -> dict[str, Any]:
        """Return what is known of the media, both directions; times in milliseconds."""
        sources = self.reporter.sources.values()
        jitter = self.uplink.jitter.counters
        peer = self.reporter.peer_report
        round_trip = self.reporter.round_trip
        return {
            "round_trip_ms": None if round_trip is None else round(round_trip * 1000, 1),
            "received_packets": self.counters.rtp_received,
            "received_lost": sum(source.packets_lost for source in sources),
            "received_jitter_ms": round(max((source.jitter for source in sources), default=0.0) * 1000, 1),
            "sent_packets": self.counters.rtp_sent,
            "sent_lost": None if peer is None else peer.packets_lost,
            "uplink": {name: getattr(jitter, name) for name in jitter.__slots__},
        }
