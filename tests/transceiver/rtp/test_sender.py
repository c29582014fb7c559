import random

from antiphon_common.rtp_extensions import MID
from antiphon_transceiver.rtp import RtpOptions, RtpSender, decode_rtp


def test_packets_are_numbered_across_the_wrap() -> None:
    sender = RtpSender(ssrc=5, payload_type=111, sequence=0x7FFF)
    numbers = [decode_rtp(sender.packet(b"", 0)).sequence for _ in range(0x8003)]
    assert numbers[0] == 0x7FFF
    assert numbers[-4:] == [0xFFFE, 0xFFFF, 0, 1]


def test_a_stream_never_begins_just_before_a_wrap() -> None:
    assert RtpSender(ssrc=5, payload_type=111, sequence=0xFFFF).sequence == 0x7FFF


def test_packets_carry_their_payload_and_timestamp() -> None:
    sender = RtpSender(ssrc=0xFFFFFFFF, payload_type=96, sequence=7)
    sender.negotiate(RtpOptions({MID: 3}, "0"))
    packet = decode_rtp(sender.packet(b"speech", (1 << 32) + 960, marker=True))
    assert (packet.ssrc, packet.payload_type, packet.sequence, packet.timestamp) == (0xFFFFFFFF, 96, 7, 960)
    assert (packet.marker, packet.payload, packet.extensions) == (True, b"speech", {3: b"0"})
    assert not decode_rtp(sender.packet(b"", 0)).marker


def test_streams_start_at_random_numbers() -> None:
    first, second = (RtpSender.start(111, random.Random(seed).randbytes) for seed in (1, 2))
    assert (first.ssrc, first.sequence) != (second.ssrc, second.sequence)
    packet = decode_rtp(first.packet(b"", 960))
    report = first.statistics.report((), 0.0)
    assert packet.timestamp == report.rtp_timestamp
    assert packet.timestamp != 960
