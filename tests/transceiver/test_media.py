"""The audio stream as a whole: what codec and payload type packets have, both ways."""

import itertools
from random import Random

import pytest

from antiphon_common.control import Codec
from antiphon_common.frames import Origin
from antiphon_common.rtp_extensions import TRANSPORT_SEQUENCE
from antiphon_transceiver.audio import OpusEncoder, RedEncoder, Repeated, UplinkFrame, decode_red
from antiphon_transceiver.media import AudioStream
from antiphon_transceiver.rtcp import ReceiverReport, ReportBlock, TransportFeedback, encode_rtcp
from antiphon_transceiver.rtp import RtpOptions, RtpPacket, RtpSender, decode_rtp
from support.speech import speech

START = 1000.0
FRAME = 0.02
OPUS = Codec("opus", 111, 48_000, parameters={"useinbandfec": "1"}, redundancy=63)
PCMA = Codec("pcma", 8, 8000)


class Call:
    """A stream, and the caller at its other end."""

    def __init__(self, codec: Codec, format: str, options: RtpOptions | None = None) -> None:
        random = Random(1).randbytes
        self.stream = AudioStream(codec, format, "call", random, 0.0, options)
        self.stream.start(START)
        self.caller = RtpSender.start(codec.payload_type, random)
        self.ticks = codec.clock_rate // 50

    def hear(self, index: int, payload: bytes, payload_type: int) -> list[UplinkFrame]:
        """Let the stream receive what the caller says, and return what the backend gets."""
        now = START + index * FRAME
        self.caller.payload_type, self.caller.sequence = payload_type, index
        self.stream.receive_rtp(self.caller.packet(payload, index * self.ticks), now)
        return list(iter(lambda: self.stream.poll_frame(now), None))

    def report(self, percent: int) -> None:
        """Let the caller report its losses."""
        block = ReportBlock(self.stream.ssrc, round(percent * 2.56), 0, 0, 0, 0, 0)
        self.stream.receive_rtcp(encode_rtcp((ReceiverReport(self.caller.ssrc, (block,)),)), START)

    def say(self, audio: bytes, since: float = START) -> list[RtpPacket]:
        """Let the backend say something, and return what the caller gets."""
        self.stream.playout.append(1, audio)
        packets = []
        while (deadline := self.stream.playout.poll_timeout()) is not None:
            while (packet := self.stream.poll_rtp(max(since, deadline))) is not None:
                packets.append(decode_rtp(packet))
        return packets


def opus_packets(count: int) -> list[bytes]:
    encoder = OpusEncoder(24_000)
    pcm = speech(count * FRAME)
    return [encoder.encode(pcm[start : start + 960]) for start in range(0, len(pcm), 960)]


def test_red_fills_the_hole_before_it() -> None:
    call, red, packets = Call(OPUS, "opus"), RedEncoder(111), opus_packets(4)
    frames = []
    for index, packet in enumerate(packets):
        payload = red.encode(packet, index * 960, (1,))
        if index != 2:
            frames += call.hear(index, payload, 63)
    assert [frame.data for frame in frames] == packets
    assert [frame.origin for frame in frames] == [Origin.RECEIVED, Origin.RECEIVED, Origin.RECOVERED, Origin.RECEIVED]


@pytest.mark.parametrize("payload_type", [111, 63])
def test_padding_between_packets_is_no_loss(payload_type: int) -> None:
    call, packets = Call(OPUS, "opus"), opus_packets(2)
    assert call.hear(0, packets[0], 111)
    assert not call.hear(1, b"", payload_type)
    assert call.hear(2, packets[1], 111)
    assert call.stream.uplink.jitter.counters.lost == call.stream.counters.rtp_bad == 0


def test_broken_red_and_other_types_are_counted() -> None:
    call = Call(OPUS, "opus")
    assert call.hear(0, b"\xef", 63) == call.hear(1, opus_packets(1)[0], 0) == []
    assert (call.stream.counters.rtp_bad, call.stream.counters.other_payload) == (1, 1)


@pytest.mark.parametrize("format", ["opus", "pcm16/24000"])
def test_red_is_sent_while_the_caller_reports_losses(format: str) -> None:
    call = Call(OPUS, format)
    audio = opus_packets(1)[0] if format == "opus" else speech(FRAME)

    def say(times: int) -> list[RtpPacket]:
        return [packet for _ in range(times) for packet in call.say(audio)]

    assert {packet.payload_type for packet in say(3)} == {111}
    call.report(10)
    once = say(3)
    call.report(20)
    twice = say(3)
    for _ in range(6):
        call.report(0)
    assert {packet.payload_type for packet in once + twice} == {63}
    assert [len(decode_red(packet.payload, 111)[1]) for packet in once + twice] == [1, 1, 1, 2, 2, 2]
    assert {packet.payload_type for packet in say(3)} == {111}
    assert call.stream.statistics()["sent_repetitions"] == 0


def test_red_reaches_further_back_where_losses_come_in_runs() -> None:
    call = Call(OPUS, "opus", RtpOptions({TRANSPORT_SEQUENCE: 3}, feedback=("transport-cc",)))

    def say(times: int) -> list[RtpPacket]:
        return [packet for said in opus_packets(times) for packet in call.say(said)]

    def tell(base: int, *came: bool) -> None:
        deltas = tuple(80 if each else None for each in came)
        call.stream.receive_rtcp(encode_rtcp((TransportFeedback(1, call.stream.ssrc, base, 0, 0, deltas),)), START)
        call.report(15)

    said = say(120)
    tell(0, *[True, True, True, True, True, False] * 10)
    near = say(1)
    tell(60, *[True, True, True, False, False, False] * 10)
    far = say(1)
    payloads = [packet.payload for packet in said + near]
    assert [block.ticks for block in decode_red(near[0].payload, 111)[1]] == [1920, 960]
    again = decode_red(far[0].payload, 111)[1]
    assert again == [Repeated(5760, payloads[-6]), Repeated(2880, payloads[-3])]


def test_without_red_no_loss_makes_it_sent() -> None:
    call = Call(Codec("opus", 111, 48_000), "opus")
    call.report(50)
    assert [packet.payload_type for packet in call.say(opus_packets(1)[0])] == [111]


@pytest.mark.parametrize("format", ["opus", "pcm16/16000"])
def test_g711_is_spoken_both_ways(format: str) -> None:
    call = Call(PCMA, format)
    frames = [frame for index in range(3) for frame in call.hear(index, bytes(160), 8)]
    samples = 960 if format == "opus" else 320
    assert [frame.position for frame in frames] == [0, samples, 2 * samples]
    packets = [packet for said in opus_packets(3) for packet in call.say(said if format == "opus" else bytes(640))]
    assert {(packet.payload_type, len(packet.payload)) for packet in packets} == {(8, 160)}
    steps = {second.timestamp - first.timestamp & 0xFFFFFFFF for first, second in itertools.pairwise(packets)}
    assert steps == {160}
