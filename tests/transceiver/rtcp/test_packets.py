import random

import pytest

from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_transceiver.rtcp import (
    Bye,
    ReceiverReport,
    ReportBlock,
    RtcpPacket,
    SdesChunk,
    SdesItem,
    SenderReport,
    SourceDescription,
    decode_rtcp,
    encode_rtcp,
)
from support.floods.mutation import mutations

BLOCK = ReportBlock(
    ssrc=2, fraction_lost=255, packets_lost=-0x800000, highest_sequence=0x1FFFF, jitter=3, last_sr=4, delay=0xFFFFFFFF
)
REPORT = SenderReport(1, 0xE000_0000_8000_0000, 96000, 100, 8000, (BLOCK,))
DESCRIPTION = SourceDescription((SdesChunk(1, (SdesItem(SdesItem.CNAME, b"caller"),)),))
COMPOUND: list[RtcpPacket] = [REPORT, DESCRIPTION, Bye((1,), b"done")]


@pytest.mark.parametrize(
    "packet",
    [
        REPORT,
        SenderReport(1, 0, 0, 0, 0),
        ReceiverReport(7),
        ReceiverReport(7, (BLOCK, ReportBlock(3, 0, 0x7FFFFF, 0, 0, 0, 0))),
        ReceiverReport(7, (BLOCK,) * 31),
        SourceDescription(()),
        *[SourceDescription((SdesChunk(1, (SdesItem(1, b"x" * size),)),)) for size in range(5)],
        SourceDescription((SdesChunk(1, ()), SdesChunk(2, (SdesItem(1, b"ab"), SdesItem(2, b"c" * 255))))),
        Bye(()),
        Bye((1, 2)),
        *[Bye((1,), b"x" * size) for size in range(1, 6)],
    ],
)
def test_encoding_inverts_decoding(packet: RtcpPacket) -> None:
    data = encode_rtcp([packet])
    assert len(data) % 4 == 0
    assert decode_rtcp(data) == [packet]


def test_fields_have_the_positions_of_rfc_3550() -> None:
    data = bytes.fromhex(
        "81c9 0007 00000001"  # RR, one block
        "00000002 40fffffe 00010005 00000006 00000007 00000008"
    )
    block = ReportBlock(2, fraction_lost=64, packets_lost=-2, highest_sequence=65541, jitter=6, last_sr=7, delay=8)
    assert decode_rtcp(data) == [ReceiverReport(1, (block,))]


def test_other_types_and_profile_extensions_are_skipped() -> None:
    feedback = bytes.fromhex("83cd0003 00000001 00000002 00000003")
    extended = bytes.fromhex("80c90002 00000007 deadbeef")
    application = bytes.fromhex("81cc0001 00000001")
    compound = feedback + extended + application + encode_rtcp(COMPOUND)
    assert decode_rtcp(compound) == [ReceiverReport(7), *COMPOUND]


def test_any_packet_may_be_padded() -> None:
    """RFC 3550 §6.4.1 pads the last one; some senders pad the others too."""
    padded = bytes.fromhex("a0c90002 00000007 00000004")
    assert decode_rtcp(encode_rtcp(COMPOUND) + padded) == [*COMPOUND, ReceiverReport(7)]
    assert decode_rtcp(padded + encode_rtcp(COMPOUND)) == [ReceiverReport(7), *COMPOUND]


@pytest.mark.parametrize(
    "malformed",
    [
        "80c90000",
        "a0c90001 00000007",
        "81c90001 00000007",
        "81ca0003 00000007 01066162 63646566",
        "82cb0001 00000007",
        "8fcd0004 00000007 00000008 00010032 00000000",
    ],
    ids=["header", "padding bit alone", "missing block", "SDES without an end", "missing source", "feedback cut short"],
)
def test_a_malformed_packet_does_not_hide_the_others(malformed: str) -> None:
    """As in libwebrtc, each packet of a compound is decoded independently."""
    broken, errors = bytes.fromhex(malformed), list[DecodeError]()
    for compound in (broken + encode_rtcp(COMPOUND), encode_rtcp(COMPOUND) + broken):
        assert decode_rtcp(compound, errors.append) == list(COMPOUND)
    assert len(errors) == 2
    with pytest.raises(DecodeError):
        decode_rtcp(broken + encode_rtcp(COMPOUND))


@pytest.mark.parametrize("rest", ["80", "0000", "00c90001 00000007", "80c90009 00000007"])
def test_packets_before_a_malformed_end_are_decoded(rest: str) -> None:
    errors: list[DecodeError] = []
    assert decode_rtcp(encode_rtcp(COMPOUND) + bytes.fromhex(rest), errors.append) == list(COMPOUND)
    assert len(errors) == 1


@pytest.mark.parametrize(
    "data",
    [
        "80",
        "80c90001",
        "40c90001 00000001",
        "80c90000",
        "81c90001 00000001",
        "80c80002 00000001 00000002",
        "81ca0001 00000001",
        "81ca0002 00000001 01ff6161",
        "82cb0001 00000001",
        "81cb0002 00000001 04616161",
        "a0c90001 00000009",
        "a0c90001 00000000",
        "a0cb0001 00000009",
        "a0cb0001 00000000",
    ],
)
def test_malformed_rtcp_is_refused(data: str) -> None:
    with pytest.raises(DecodeError):
        decode_rtcp(bytes.fromhex(data))


def test_more_report_blocks_than_fit_are_refused() -> None:
    with pytest.raises(LocalProtocolError):
        encode_rtcp([ReceiverReport(1, (BLOCK,) * 32)])


@pytest.mark.parametrize("seed", range(3))
def test_mutated_packets_raise_only_decode_errors(seed: int) -> None:
    print("seed", seed)
    taken = 0
    for broken in mutations(encode_rtcp(COMPOUND), random.Random(seed), 3000):
        try:
            packets = decode_rtcp(broken)
        except DecodeError:
            continue
        taken += 1
        assert decode_rtcp(encode_rtcp(packets)) == packets
    assert taken > 300
