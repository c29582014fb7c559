import random

import pytest

from antiphon_common.rtp_extensions import ABSOLUTE_SEND_TIME, MID, TRANSPORT_SEQUENCE
from antiphon_transceiver.rtp import ExtensionWriter, FieldReader, RtpPacket, decode_rtp, encode_extensions
from antiphon_transceiver.rtp.fields import MID_PACKETS

IDS = {ABSOLUTE_SEND_TIME: 2, TRANSPORT_SEQUENCE: 3, MID: 4}


def written(writer: ExtensionWriter, now: float) -> RtpPacket:
    extension = writer.write(now)
    return decode_rtp(bytes((0x90 if extension else 0x80, 111)) + bytes(10) + extension + b"speech")


def test_packets_carry_send_time_and_sequence_number_and_the_first_ones_the_mid() -> None:
    writer = ExtensionWriter(IDS, "audio")
    for number in range(MID_PACKETS + 3):
        packet = written(writer, 63.75)
        expected = {2: (255 << 16).to_bytes(3, "big"), 3: number.to_bytes(2, "big")}
        if number < MID_PACKETS:
            expected[4] = b"audio"
        assert packet.extensions == expected
        assert packet.payload == b"speech"


def test_send_time_and_number_wrap() -> None:
    writer = ExtensionWriter(IDS, "")
    writer.sequence = 0xFFFF
    assert written(writer, 63.9999999).extensions == {2: b"\xff\xff\xff", 3: b"\xff\xff"}
    assert written(writer, 64.0).extensions == {2: bytes(3), 3: bytes(2)}


@pytest.mark.parametrize(
    ("ids", "mid", "elements"),
    [
        ({}, "0", {}),
        ({MID: 4}, "", {}),
        ({MID: 4}, "x" * 17, {}),
        ({MID: 14}, "0", {14: b"0"}),
        ({ABSOLUTE_SEND_TIME: 1}, "0", {1: bytes(3)}),
        ({TRANSPORT_SEQUENCE: 14}, "0", {14: bytes(2)}),
    ],
)
def test_only_negotiated_extensions_are_written(ids: dict[str, int], mid: str, elements: dict[int, bytes]) -> None:
    packet = written(ExtensionWriter(ids, mid), 0.0)
    assert packet.extensions == elements
    assert (packet.extension_profile is None) == (not elements)


@pytest.mark.parametrize("seed", range(3))
def test_an_extension_is_read_at_any_position(seed: int) -> None:
    """Layouts change between packets, and other elements contain bytes that look like headers."""
    print("seed", seed)
    rng = random.Random(seed)
    reader = FieldReader(3, 2)
    for _ in range(3000):
        ids = rng.sample(range(1, 15), rng.randrange(5))
        elements = {number: bytes(rng.choice((0x31, 3, 0)) for _ in range(rng.randrange(1, 6))) for number in ids}
        if rng.random() < 0.1:
            elements[15] = b"two-byte form"
        profile, data = encode_extensions(elements)
        value = elements.get(3, b"")
        assert reader.read(profile, data) == (int.from_bytes(value, "big") if len(value) == 2 else None)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("00 10ff 31 0102 000000", 0x0102),
        ("f0 31 0102", None),  # id 15 ends the list (RFC 8285 §4.2)
        ("12 ffffff 31 01", None),
        ("1f", None),
        ("", None),
    ],
)
def test_malformed_extensions_yield_no_value(data: str, value: int | None) -> None:
    reader = FieldReader(3, 2)
    for _ in range(2):
        assert reader.read(0xBEDE, bytes.fromhex(data)) == value
        assert reader.read(0x1000, b"\x03\x02\x05\x06") == 0x0506
        assert reader.read(0x1000, b"\x03\x09\x05\x06") is None
