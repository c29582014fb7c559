"""The audio stream as a whole: codecs and payload types of packets in both directions."""

import itertools
from math import inf
from random import Random

import pytest

from antiphon_common.control import Codec
from antiphon_common.frames import FrameStatus
from antiphon_common.rtp_extensions import TRANSPORT_SEQUENCE
from antiphon_transceiver.audio import OpusEncoder, UplinkFrame
from antiphon_transceiver.media import AudioStream
from antiphon_transceiver.rtcp import (
    Bye,
    ReceiverReport,
    ReportBlock,
    TransportFeedback,
    decode_rtcp,
    encode_rtcp,
)
from antiphon_transceiver.rtp import (
    RedEncoder,
    RedundantBlock,
    RtpOptions,
    RtpPacket,
    RtpSender,
    decode_red,
    decode_rtp,
)
from support.audio.speech import speech
from support.sim import sender_clocks
from support.sim.sender_clocks import Packet, ReceivingStream, rtp

START = 1000.0
FRAME = 0.02
OPUS = Codec("opus", 111, 48_000, parameters={"useinbandfec": "1"}, redundancy=63)
PCMA = Codec("pcma", 8, 8000)
TWCC = "transport-cc"


class StreamPair:
    """A stream and its caller."""

    def __init__(self, codec: Codec, format: str, options: RtpOptions | None = None) -> None:
        random = Random(1).randbytes
        self.stream = AudioStream(codec, format, "call", random, 0.0, options)
        self.stream.start(START)
        self.caller = RtpSender.start(codec.payload_type, random)
        self.ticks = codec.clock_rate // 50

    def send_uplink(self, index: int, payload: bytes, payload_type: int) -> list[UplinkFrame]:
        """Send a packet of the caller. Return the frames for the backend."""
        now = START + index * FRAME
        self.caller.payload_type, self.caller.sequence = payload_type, index
        self.stream.receive_rtp(self.caller.packet(payload, index * self.ticks), now)
        return list(iter(lambda: self.stream.poll_frame(now), None))

    def report(self, percent: int) -> None:
        """Let the caller report losses."""
        block = ReportBlock(self.stream.ssrc, round(percent * 2.56), 0, 0, 0, 0, 0)
        self.stream.receive_rtcp(encode_rtcp((ReceiverReport(self.caller.ssrc, (block,)),)), START)

    def send_downlink(self, audio: bytes, since: float = START) -> list[RtpPacket]:
        """Send audio of the backend. Return the packets that the caller receives."""
        self.stream.playout.append(1, audio)
        packets = []
        while (deadline := self.stream.playout.poll_timeout()) < inf:
            while (packet := self.stream.poll_rtp(max(since, deadline))) is not None:
                packets.append(decode_rtp(packet))
        return packets


def opus_packets(count: int) -> list[bytes]:
    encoder = OpusEncoder(24_000)
    pcm = speech(count * FRAME)
    return [encoder.encode(pcm[start : start + 960]) for start in range(0, len(pcm), 960)]


def test_redundant_blocks_replace_a_lost_packet() -> None:
    call, red, packets = StreamPair(OPUS, "opus"), RedEncoder(111), opus_packets(4)
    frames = []
    for index, packet in enumerate(packets):
        payload = red.encode(packet, index * 960, (1,))
        if index != 2:
            frames += call.send_uplink(index, payload, 63)
    assert [frame.data for frame in frames] == packets
    assert [frame.status for frame in frames] == [
        FrameStatus.RECEIVED,
        FrameStatus.RECEIVED,
        FrameStatus.RECOVERED,
        FrameStatus.RECEIVED,
    ]


@pytest.mark.parametrize("payload_type", [111, 63])
def test_padding_packets_are_not_lost_audio(payload_type: int) -> None:
    call, packets = StreamPair(OPUS, "opus"), opus_packets(2)
    assert call.send_uplink(0, packets[0], 111)
    assert not call.send_uplink(1, b"", payload_type)
    assert call.send_uplink(2, packets[1], 111)
    assert call.stream.uplink.jitter.counters.lost == call.stream.counters.rtp_bad == 0


def test_malformed_red_and_other_payload_types_are_counted() -> None:
    call = StreamPair(OPUS, "opus")
    assert call.send_uplink(0, b"\xef", 63) == call.send_uplink(1, opus_packets(1)[0], 0) == []
    assert (call.stream.counters.rtp_bad, call.stream.counters.other_payload) == (1, 1)


@pytest.mark.parametrize("format", ["opus", "pcm16/24000"])
def test_red_is_sent_while_the_caller_reports_losses(format: str) -> None:
    call = StreamPair(OPUS, format)
    audio = opus_packets(1)[0] if format == "opus" else speech(FRAME)

    def send_downlink(times: int) -> list[RtpPacket]:
        return [packet for _ in range(times) for packet in call.send_downlink(audio)]

    assert {packet.payload_type for packet in send_downlink(3)} == {111}
    call.report(10)
    once = send_downlink(3)
    call.report(20)
    twice = send_downlink(3)
    for _ in range(6):
        call.report(0)
    assert {packet.payload_type for packet in once + twice} == {63}
    assert [len(decode_red(packet.payload, 111)[1]) for packet in once + twice] == [1, 1, 1, 2, 2, 2]
    assert {packet.payload_type for packet in send_downlink(3)} == {111}
    assert call.stream.statistics()["sent_repetitions"] == 0


def test_only_reports_reduce_the_redundancy_after_losses() -> None:
    call = StreamPair(OPUS, "opus")
    call.report(20)
    call.report(0)
    blocks = call.stream.statistics()["sent_repetitions"]
    assert blocks > 0
    for _ in range(10):
        call.stream.receive_rtcp(encode_rtcp((ReceiverReport(call.caller.ssrc, ()),)), START)
    assert call.stream.statistics()["sent_repetitions"] == blocks


def test_burst_losses_increase_the_redundancy_offsets_of_a_stream() -> None:
    call = StreamPair(OPUS, "opus", RtpOptions({TRANSPORT_SEQUENCE: 3}, feedback=("transport-cc",)))

    def send_downlink(times: int) -> list[RtpPacket]:
        return [packet for sent in opus_packets(times) for packet in call.send_downlink(sent)]

    def report_received(base: int, *came: bool) -> None:
        deltas = tuple(80 if each else None for each in came)
        call.stream.receive_rtcp(encode_rtcp((TransportFeedback(1, call.stream.ssrc, base, 0, 0, deltas),)), START)
        call.report(15)

    sent = send_downlink(120)
    report_received(0, *[True, True, True, True, True, False] * 10)
    near = send_downlink(1)
    report_received(60, *[True, True, True, False, False, False] * 10)
    far = send_downlink(1)
    payloads = [packet.payload for packet in sent + near]
    assert [block.ticks for block in decode_red(near[0].payload, 111)[1]] == [1920, 960]
    again = decode_red(far[0].payload, 111)[1]
    assert again == [RedundantBlock(5760, payloads[-6]), RedundantBlock(2880, payloads[-3])]


def test_red_is_not_sent_if_not_negotiated() -> None:
    call = StreamPair(Codec("opus", 111, 48_000), "opus")
    call.report(50)
    assert [packet.payload_type for packet in call.send_downlink(opus_packets(1)[0])] == [111]


@pytest.mark.parametrize("format", ["opus", "pcm16/16000"])
def test_g711_passes_in_both_directions(format: str) -> None:
    call = StreamPair(PCMA, format)
    frames = [frame for index in range(3) for frame in call.send_uplink(index, bytes(160), 8)]
    samples = 960 if format == "opus" else 320
    assert [frame.position for frame in frames] == [0, samples, 2 * samples]
    packets = [
        packet for sent in opus_packets(3) for packet in call.send_downlink(sent if format == "opus" else bytes(640))
    ]
    assert {(packet.payload_type, len(packet.payload)) for packet in packets} == {(8, 160)}
    steps = {second.timestamp - first.timestamp & 0xFFFFFFFF for first, second in itertools.pairwise(packets)}
    assert steps == {160}


def listen(packets: list[Packet], codec: Codec = sender_clocks.OPUS, format: str = "opus") -> ReceivingStream:
    listener = ReceivingStream(codec, format)
    listener.receive(packets)
    return listener


def assert_nothing_missed(listener: ReceivingStream, count: int, others: int) -> None:
    """Assert that all audio was received, and none was reported, requested or concealed as lost before the end."""
    assert listener.numbers == list(range(count))
    assert listener.requested == []
    assert listener.stream.receiver.sources[sender_clocks.SSRC].packets_lost == 0
    statistics = listener.stream.statistics()
    assert (statistics["received_lost"], statistics["uplink"]["lost"]) == (0, 0)
    assert len(listener.concealed) <= 5
    assert listener.stream.counters.other_payload == others


EVENT = b"\x05\x0a\x03\x20"


@pytest.mark.parametrize(
    ("payload_type", "payload"),
    [
        pytest.param(126, EVENT, id="telephone-event at 48000"),
        pytest.param(101, EVENT, id="telephone-event at 8000"),
        pytest.param(13, b"\x40", id="comfort noise"),
        pytest.param(63, b"\x7e" + EVENT, id="telephone-event in RED"),
        pytest.param(97, bytes(100), id="unknown"),
        pytest.param(97, b"", id="padding of another type"),
    ],
)
def test_packets_of_other_payload_types_are_not_lost_audio(payload_type: int, payload: bytes) -> None:
    """A second during the audio, and half a second in place of it."""
    packets, sequence, number = [], 100, 0
    for index in range(400):
        now, instead = index * FRAME, 200 <= index < 225
        if 100 <= index < 150 or instead:
            packets.append(Packet(now, rtp(sequence, 100 * 960, payload, payload_type)))
            sequence += 1
        if not instead:
            packets.append(Packet(now + 0.0001, rtp(sequence, index * 960, sender_clocks.opus(number))))
            sequence, number = sequence + 1, number + 1
    listener = listen(packets)
    assert_nothing_missed(listener, 375, 75)
    positions = [frame.position // 960 for _, frame in listener.heard]
    assert positions[:200] + positions[200:375] == [*range(200), *range(225, 400)]
    assert listener.stream.receiver.sources[sender_clocks.SSRC].jitter < 0.001


def test_comfort_noise_of_g711_starts_a_pause_and_is_not_a_loss() -> None:
    packets, sequence = [], 0
    for index in range(300):
        if index % 100 < 50:
            packets.append(Packet(index * FRAME, rtp(sequence, index * 160, bytes(160), 8)))
            sequence += 1
        elif index % 100 == 50:
            packets.append(Packet(index * FRAME, rtp(sequence, index * 160, b"\x40", 13)))
            sequence += 1
    listener = listen(packets, PCMA, "pcm16/16000")
    assert [frame.position // 320 for _, frame in listener.heard] == [i for i in range(300) if i % 100 < 50]
    assert listener.requested == []


def test_late_packets_of_another_payload_type_do_not_hide_a_loss() -> None:
    """Later audio arrives before them. If audio is lost next to them, only that audio is requested and concealed."""
    events = range(10, 100, 10)
    packets = []
    for index in range(100):
        media = index - index // 10
        if index in events:
            packets.append(Packet(media * FRAME + 0.025, rtp(index, 0, EVENT, 126)))
        elif index != 51:
            packets.append(Packet(media * FRAME, rtp(index, media * 960, sender_clocks.opus(media))))
    listener = listen(packets)
    assert listener.numbers == [number for number in range(91) if number != 46]
    assert {sequence for sequence in listener.requested if sequence not in events} == {51}
    assert listener.stream.receiver.sources[sender_clocks.SSRC].packets_lost == 1
    assert [frame.position // 960 for frame in listener.concealed] == [46, 91, 92, 93, 94, 95]


def test_transport_wide_feedback_acknowledges_packets_of_every_type_and_source() -> None:
    stream = AudioStream(OPUS, "opus", "c", Random(1).randbytes, 0.0, RtpOptions({TRANSPORT_SEQUENCE: 3}, "", (TWCC,)))
    stream.start(0.0)
    for index in range(10):
        extension = bytes((0x31,)) + index.to_bytes(2, "big") + b"\0"
        payload_type, ssrc = ((111, 7), (126, 7), (97, 8), (63, 7), (111, 7))[index % 5]
        payload = sender_clocks.opus(index) if payload_type == 111 else b"\xff"
        packet = RtpPacket(False, payload_type, index, index * 960, ssrc, payload, (), 0xBEDE, extension)
        stream.receive_rtp(packet.encode(), index * 0.012)
    (feedback,) = [
        part for part in decode_rtcp(stream.poll_feedback(0.108) or b"") if isinstance(part, TransportFeedback)
    ]
    assert feedback.base_sequence == 0
    assert len(feedback.deltas) == 10
    assert None not in feedback.deltas
    assert set(stream.receiver.sources) == {7}
    assert stream.counters.rtp_bad == 2


def bye_packet(ssrc: int) -> bytes:
    return encode_rtcp((ReceiverReport(ssrc), Bye((ssrc,))))


@pytest.mark.parametrize("music_ends", [True, False])
def test_a_source_that_sent_a_bye_is_received_again_after_a_hold(music_ends: bool) -> None:
    """Devices send music from another source meanwhile. Late packets of the first source do not end it."""
    call, ssrc, music, packets = StreamPair(OPUS, "opus"), 7, 8, opus_packets(4)

    def receive(source: int, sequence: int, now: float) -> list[bytes]:
        packet = RtpPacket(False, 111, sequence, sequence * 960, source, packets[sequence % 4])
        call.stream.receive_rtp(packet.encode(), now)
        return [frame.data for frame in iter(lambda: call.stream.poll_frame(now), None)]

    assert receive(ssrc, 0, START) == [packets[0]]
    call.stream.receive_rtcp(bye_packet(ssrc), START + 0.01)
    assert receive(music, 50, START + 0.1) == [packets[2]]
    assert receive(ssrc, 1, START + 0.11) == []
    assert receive(music, 51, START + 0.12) == [packets[3]]
    if music_ends:
        call.stream.receive_rtcp(bye_packet(music), START + 5)
    assert receive(ssrc, 2, START + 6) == [packets[2]]
    assert receive(ssrc, 3, START + 6.02) == [packets[3]]
    assert call.stream.counters.ended_source == 1


def test_telephone_events_of_a_source_that_continues_after_its_bye_are_not_lost() -> None:
    """A browser sends a BYE when a track is removed, and uses the same source for the next track."""
    call, (packet,) = StreamPair(OPUS, "opus"), opus_packets(1)
    assert call.send_uplink(0, packet, 111)
    call.stream.receive_rtcp(bye_packet(call.caller.ssrc), START + 0.01)
    frames: list[UplinkFrame] = []
    for sequence, payload_type in enumerate((111, 126, 111), start=1):
        call.caller.payload_type, call.caller.sequence = payload_type, sequence
        since = 5 + sequence * FRAME
        call.stream.receive_rtp(call.caller.packet(packet, round(since * 48_000)), START + since)
        while (frame := call.stream.poll_frame(START + since)) is not None:
            frames.append(frame)
    assert [frame.data for frame in frames] == [packet, packet]
    assert call.stream.receiver.sources[call.caller.ssrc].packets_lost == 0


def test_another_packet_type_of_an_unknown_or_ended_source_is_ignored() -> None:
    call = StreamPair(OPUS, "opus", RtpOptions(feedback=("nack",)))
    assert call.send_uplink(0, EVENT, 126) == []
    assert call.stream.receiver.sources == {}
    assert call.send_uplink(5, opus_packets(1)[0], 111)
    call.stream.receive_rtcp(encode_rtcp((ReceiverReport(call.caller.ssrc), Bye((call.caller.ssrc,)))), START + 0.2)
    assert call.send_uplink(9, EVENT, 126) == []
    assert call.stream.receiver.sources == {}
    assert call.stream.counters.other_payload == 2


def test_statistics_show_audio_faster_than_real_time() -> None:
    listener = listen(
        [Packet(index * FRAME / 60, rtp(index, index * 960, sender_clocks.opus(index))) for index in range(3000)]
    )
    assert listener.stream.statistics()["uplink"]["excess"] > 2800
    assert len(listener.heard) * FRAME < 4


def test_a_source_of_another_payload_type_does_not_affect_nacks() -> None:
    """Packets for retransmission or probing have another source."""
    other = RtpPacket(False, 97, 40_000, 0, 99, bytes(200)).encode()
    listener = listen(
        [
            Packet(0.0, rtp(0, 0, sender_clocks.opus(0))),
            Packet(0.01, other),
            Packet(0.04, rtp(2, 1920, sender_clocks.opus(2))),
        ]
    )
    assert set(listener.requested) == {1}


def test_telephone_events_do_not_affect_the_reported_jitter() -> None:
    packets = []
    for index in range(50):
        packets.append(Packet(index * FRAME, rtp(2 * index, index * 960, sender_clocks.opus(index))))
        packets.append(Packet(index * FRAME + 0.005, rtp(2 * index + 1, 0, EVENT, 126)))
    listener = listen(packets)
    assert listener.stream.receiver.sources[sender_clocks.SSRC].jitter == pytest.approx(0, abs=1e-6)
    assert listener.numbers == list(range(50))
