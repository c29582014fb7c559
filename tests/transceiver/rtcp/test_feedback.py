import random

import pytest

from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_transceiver.rtcp import GenericNack, RtcpPacket, TransportFeedback, decode_rtcp, encode_rtcp
from antiphon_transceiver.rtcp.feedback import MAX_SEQUENCES, MAX_STATUSES
from support.floods.mutation import mutations


def feedback(*deltas: int | None, base: int = 5) -> TransportFeedback:
    return TransportFeedback(1, 2, base, 0x800001, 255, deltas)


@pytest.mark.parametrize(
    "packet",
    [
        GenericNack(1, 2, ()),
        GenericNack(1, 2, (7,)),
        GenericNack(1, 2, (65535, 0, 15, 16)),
        GenericNack(1, 2, tuple(range(100, 200, 3))),
        feedback(0),
        feedback(255, 256, -1, 0),
        feedback(32767, -32768),
        feedback(None, None, 3),
        feedback(*[80] * 5, None, *[80] * 8),
        feedback(*[80] * 30),
        feedback(*[80, None] * 30),
        feedback(*[80, None, 300] * 30),
        feedback(1, *[None] * 100, 1),
        feedback(*[300] * 100, 1),
        feedback(*[1] * MAX_STATUSES),
    ],
)
def test_encoding_inverts_decoding(packet: RtcpPacket) -> None:
    data = encode_rtcp([packet])
    assert len(data) % 4 == 0
    assert decode_rtcp(data) == [packet]


def test_a_nack_has_the_format_of_rfc_4585() -> None:
    data = bytes.fromhex("81cd0003 00000001 00000002 ffff 8001")
    assert decode_rtcp(data) == [GenericNack(1, 2, (0xFFFF, 0x0000, 0x000F))]
    assert encode_rtcp([GenericNack(1, 2, (0xFFFF, 0x0000, 0x000F))]) == data


@pytest.mark.parametrize(
    ("chunks", "deltas"),
    [
        ("2003", (1, 2, 3)),  # a run of three small deltas
        ("0002 2001", (None, None, 1)),
        ("a800", (1, None, 2)),  # one bit each
        ("d200", (1, None, 0x0203)),  # two bits each: 01 00 10
    ],
)
def test_transport_feedback_has_the_format_of_the_draft(chunks: str, deltas: tuple[int | None, ...]) -> None:
    times = "".join(f"{delta:02x}" if delta < 256 else f"{delta:04x}" for delta in deltas if delta is not None)
    body = f"00000001 00000002 0005 {len(deltas):04x} 800001 ff {chunks} {times}".replace(" ", "")
    body += "00" * (-len(body) // 2 % 4)
    data = bytes.fromhex(f"8fcd{len(body) // 8:04x}" + body)
    assert decode_rtcp(data) == [feedback(*deltas)]


def test_padding_behind_the_deltas_may_be_marked() -> None:
    data = bytes.fromhex("afcd0005 00000001 00000002 00050001 800001ff 2001 01 01")
    assert decode_rtcp(data) == [feedback(1)]


@pytest.mark.parametrize(
    "body",
    [
        "00000001 00000002",
        "00000001 00000002 0005 0003 800001ff",  # no chunk
        "00000001 00000002 0005 0003 800001ff 20030101",  # a delta too few
        "00000001 00000002 0005 0401 800001ff 24010101",  # more than we take
        "00000001 00000002 0005 0001 800001ff 60010101",  # a reserved symbol
    ],
)
def test_malformed_feedback_is_refused(body: str) -> None:
    data = bytes.fromhex(body)
    with pytest.raises(DecodeError):
        decode_rtcp(b"\x8f\xcd" + (len(data) // 4).to_bytes(2, "big") + data)


@pytest.mark.parametrize("count", [0, MAX_STATUSES + 1])
def test_feedback_on_no_packets_or_too_many_is_refused(count: int) -> None:
    with pytest.raises(LocalProtocolError):
        feedback(*[1] * count).encode()


@pytest.mark.parametrize("seed", range(3))
def test_any_pattern_of_losses_and_delays_survives_encoding(seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(500):
        palette: list[int | None] = rng.choice([[None, 80], [80], [80, 300], [None, 300], [None, 80, -5]])
        run = rng.choice((1, 1, 20))
        deltas = [rng.choice(palette) for _ in range(rng.randrange(1, 60)) for _ in range(rng.randrange(1, run + 1))]
        packet = feedback(*deltas[:MAX_STATUSES], base=rng.randrange(0x10000))
        assert decode_rtcp(encode_rtcp([packet])) == [packet]


@pytest.mark.parametrize("seed", range(3))
def test_mutated_feedback_raises_only_decode_errors(seed: int) -> None:
    print("seed", seed)
    good = encode_rtcp([feedback(80, None, 300, 80, 80), GenericNack(1, 2, (7, 9))])
    for broken in mutations(good, random.Random(seed), 3000):
        try:
            packets = decode_rtcp(broken)
        except DecodeError:
            continue
        for packet in packets:
            if isinstance(packet, TransportFeedback) and packet.deltas:
                assert decode_rtcp(encode_rtcp([packet])) == [packet]


def test_only_the_first_packets_of_a_large_nack_are_read() -> None:
    nack = GenericNack(1, 2, tuple(range(100, 100 + 5 * MAX_SEQUENCES)))
    assert decode_rtcp(encode_rtcp([nack])) == [GenericNack(1, 2, nack.sequences[:MAX_SEQUENCES])]
