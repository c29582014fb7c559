"""The audio of a call, with everything negotiated: RTP and RTCP as an authenticated caller may send them."""

from collections.abc import Callable
from random import Random

from antiphon_common.control import Codec
from antiphon_common.rtp_extensions import ABSOLUTE_SEND_TIME, AUDIO_LEVEL, MID, TRANSPORT_SEQUENCE
from antiphon_transceiver.audio.jitter_buffer import MAX_HELD
from antiphon_transceiver.media import AudioStream
from antiphon_transceiver.rtcp import (
    Bye,
    GenericNack,
    ReceiverReport,
    ReportBlock,
    SdesChunk,
    SdesItem,
    SourceDescription,
    TransportFeedback,
    encode_rtcp,
)
from antiphon_transceiver.rtp import RtpOptions
from antiphon_transceiver.rtp.nack import KEPT_PACKETS
from antiphon_transceiver.rtp.receiver import MAX_SOURCES
from antiphon_transceiver.rtp.twcc import REMEMBERED
from cost.drive import take_all
from cost.grammars import RtcpPackets, Whole
from cost.search import Ready

OPUS, RED, FRAME = 111, 63, 960
SOURCE = 0x1234
SAID = b"\xf8\xff\xfe"


def stream_of(format: str = "opus", codec: str = "opus") -> AudioStream:
    extensions = {MID: 1, AUDIO_LEVEL: 2, ABSOLUTE_SEND_TIME: 3, TRANSPORT_SEQUENCE: 4}
    options = RtpOptions(extensions, "0", ("nack", "transport-cc"), reduced_size=True)
    negotiated = Codec(codec, OPUS, 48_000, 2, redundancy=RED) if codec == "opus" else Codec(codec, 0, 8_000, 1)
    return AudioStream(negotiated, format, "cname", Random(0).randbytes, 3.9e9, options)


class StreamListener:
    """An audio stream in the middle of a call."""

    def __init__(self, format: str = "opus", codec: str = "opus") -> None:
        self.stream = stream_of(format, codec)
        self.now = 1.0
        self.stream.start(self.now)
        self.payload_type = OPUS if codec == "opus" else 0
        self.step = FRAME if codec == "opus" else 160
        self.payload = SAID if codec == "opus" else bytes(160)

    def shorten(self) -> None:
        """Continue with packets of 2.5 ms: a burst has a limit in seconds."""
        self.step //= 8
        self.payload = b"\xe0\xff\xfe" if self.payload_type else bytes(20)

    def receive(self, packet: bytes) -> None:
        stream, now = self.stream, self.now
        if len(packet) > 1 and 192 <= packet[1] < 224:
            stream.receive_rtcp(packet, now)
            take_all(stream.sender.poll_retransmission)
        else:
            stream.receive_rtp(packet, now)
        self.poll()

    def poll(self) -> None:
        now = self.now
        for poll in (self.stream.poll_frame, self.stream.poll_rtp, self.stream.poll_rtcp, self.stream.poll_feedback):
            take_all(lambda poll=poll: poll(now))  # type: ignore[misc]
        self.stream.poll_timeout(sends=True)

    def rtp(
        self, number: int, *, source: int = SOURCE, timestamp: int | None = None, payload: bytes | None = None
    ) -> bytes:
        at = self.step * number if timestamp is None else timestamp
        head = (
            bytes((0x80, self.payload_type))
            + (number & 0xFFFF).to_bytes(2, "big")
            + (at & 0xFFFFFFFF).to_bytes(4, "big")
        )
        return head + source.to_bytes(4, "big") + (self.payload if payload is None else payload)

    def extended(self, number: int, transport: int) -> bytes:
        """Return a packet with its number among all of the transport."""
        packet = self.rtp(number)
        block = b"\xbe\xde\0\1\x41" + (transport & 0xFFFF).to_bytes(2, "big") + b"\0"
        return bytes((0x90,)) + packet[1:12] + block + packet[12:]

    def play(self, packets: int) -> None:
        """Let the stream send packets, which the retransmission buffer keeps."""
        for number in range(packets):
            self.stream.playout.append(1, SAID if self.payload_type else bytes(320))
            self.now += 0.02
            while (packet := self.stream.poll_rtp(self.now)) is not None:
                self.stream.sender.sent(packet + bytes(16), self.now)
            if number % 4 == 0:
                self.poll()

    def seeds(self) -> list[bytes]:
        rtp = [self.rtp(number) for number in (1, 2, 10, 40, 200, 3000, 65_000)]
        rtp += [self.rtp(1, source=9), self.rtp(50, timestamp=FRAME * 1000), self.rtp(51, timestamp=1 << 31)]
        rtp += [
            self.rtp(100, payload=payload) for payload in (b"", b"\0" * 3, b"\xff" * 1000, b"\xfb\x30" + bytes(1000))
        ]
        rtp += [self.extended(5, 1), self.extended(6, 900), self.extended(300, 40_000)]
        blocks = b"".join(bytes((0x80 | OPUS, offset >> 6, (offset << 2) & 0xFF, 1)) for offset in range(1, 200))
        red = self.rtp(60, payload=blocks + bytes((OPUS,)) + b"x" * 210)
        extensions = b"\x90" + self.rtp(61)[1:12] + b"\xbe\xde\0\xff" + b"\x40\1" * 510 + SAID
        csrc = b"\x8f" + self.rtp(62)[1:12] + bytes(60) + SAID
        return [*rtp, red[:1] + bytes((RED,)) + red[2:], extensions, csrc, *self.rtcp_seeds()]

    def rtcp_seeds(self) -> list[bytes]:
        ssrc = self.stream.ssrc
        base = self.stream.sender.next_transport_sequence - 64
        none = TransportFeedback(SOURCE, ssrc, base & 0xFFFF, 3, 4, (None,) * 1023)
        runs = encode_rtcp([none])
        all_received = encode_rtcp([TransportFeedback(SOURCE, ssrc, base & 0xFFFF, 3, 4, (1,) * 800)])
        block = ReportBlock(ssrc, 25, 3, 1000, 40, 5, 6)
        nack = encode_rtcp([GenericNack(SOURCE, ssrc, tuple(range(1000)))])
        short = b"\x81\xcd\0\3" + SOURCE.to_bytes(4, "big") + ssrc.to_bytes(4, "big")
        nacks = b"".join(short + (number & 0xFFFF).to_bytes(2, "big") + b"\xff\xff" for number in range(70))
        description = SourceDescription((SdesChunk(5, (SdesItem(1, b"a"),) * 60),) * 3)
        return [
            encode_rtcp([ReceiverReport(SOURCE, (block,) * 31)]),
            encode_rtcp([ReceiverReport(SOURCE)]) * 140,
            runs * (1200 // len(runs)),
            runs,
            all_received,
            nack,
            nacks,
            encode_rtcp([Bye((SOURCE, *range(30)))]),
            encode_rtcp([Bye(())]) * 290,
            encode_rtcp([description]),
            encode_rtcp([SourceDescription(())]) * 290,
        ]

    def ready(self, *, rtcp: bool) -> Ready:
        numbers = (self.stream.ssrc, SOURCE, self.stream.sender.next_transport_sequence)
        if rtcp:
            return Ready(self.receive, self.rtcp_seeds(), RtcpPackets(), numbers=numbers)
        return Ready(self.receive, self.seeds(), Whole(), numbers=numbers)


def _listening(format: str, codec: str, kind: str, *, rtcp: bool) -> Callable[[], Ready]:
    def prepare() -> Ready:
        listener = StreamListener(format, codec)
        _KINDS[kind](listener)
        return listener.ready(rtcp=rtcp)

    return prepare


def _begin(listener: StreamListener) -> None:
    listener.receive(listener.rtp(0))


def _sent_tables_full(listener: StreamListener) -> None:
    _begin(listener)
    listener.play(400)
    assert listener.stream.counters.rtp_sent >= REMEMBERED > KEPT_PACKETS


def _jitter_buffer_full(listener: StreamListener) -> None:
    """As many packets as are kept after a missing one, none of them due."""
    for number in range(10):
        listener.receive(listener.extended(number, number))
        listener.now += 0.02
    listener.shorten()
    for number in range(12, 12 + 4 * MAX_HELD, 2):
        listener.receive(listener.extended(number, 12 + number % 128))
    counters = listener.stream.uplink.jitter.counters
    assert counters.received > 10 + MAX_HELD, "more are not held"
    assert not counters.excess


def _many_sources(listener: StreamListener) -> None:
    for source in range(1, 40):
        listener.receive(listener.rtp(0, source=source))
    _begin(listener)
    assert len(listener.stream.receiver.sources) == MAX_SOURCES


_KINDS: dict[str, Callable[[StreamListener], None]] = {
    "begun": _begin,
    "sent tables full": _sent_tables_full,
    "jitter buffer full": _jitter_buffer_full,
    "many sources": _many_sources,
}

RTCP_STATES: dict[str, Callable[[], Ready]] = {
    kind: _listening("opus", "opus", kind, rtcp=True) for kind in ("begun", "sent tables full", "many sources")
}
RTP_STATES: dict[str, Callable[[], Ready]] = {
    f"{codec} for {format}, {kind}": _listening(format, codec, kind, rtcp=False)
    for codec, format in (("opus", "opus"), ("opus", "pcm16/24000"), ("pcmu", "opus"), ("pcmu", "pcm16/24000"))
    for kind in ("begun", "jitter buffer full")
}
