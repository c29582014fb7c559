import random
import struct

import pytest

from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_transceiver.rtp import RtpPacket, decode_rtp
from support.floods.mutation import mutations

PLAIN = RtpPacket(True, 111, 65535, 0xFFFFFFFF, 0x80000001, b"payload")


@pytest.mark.parametrize(
    "packet",
    [
        PLAIN,
        PLAIN._replace(marker=False, payload=b""),
        PLAIN._replace(csrcs=(1, 2, 3)),
        PLAIN._replace(csrcs=tuple(range(15))),
        PLAIN._replace(extension_profile=0xBEDE, extension_data=b"\x10\xff\0\0"),
        PLAIN._replace(extension_profile=0x1000),
        PLAIN._replace(padding=1),
        PLAIN._replace(padding=255),
        PLAIN._replace(csrcs=(9,), extension_profile=0x1234, extension_data=bytes(8), padding=4, payload=b""),
    ],
)
def test_encoding_inverts_decoding(packet: RtpPacket) -> None:
    assert decode_rtp(packet.encode()) == packet


def test_fields_have_the_positions_of_rfc_3550() -> None:
    data = bytes.fromhex("b1e0 0102 03040506 0708090a 0000000b bede0001 10850000 cafe 0002")
    packet = decode_rtp(data)
    assert packet == RtpPacket(
        marker=True,
        payload_type=96,
        sequence=0x0102,
        timestamp=0x03040506,
        ssrc=0x0708090A,
        payload=b"\xca\xfe",
        csrcs=(11,),
        extension_profile=0xBEDE,
        extension_data=b"\x10\x85\0\0",
        padding=2,
    )
    assert packet.extensions == {1: b"\x85"}
    assert packet.encode() == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        PLAIN.encode()[:11],
        b"\x40" + PLAIN.encode()[1:],
        b"\x8f" + PLAIN.encode()[1:],
        b"\x90" + PLAIN.encode()[1:14],
        struct.pack("!BBHIIHH", 0x90, 0, 0, 0, 0, 0xBEDE, 1),
        b"\xa0" + bytes(11),
        b"\xa0" + bytes(11) + b"\x02",
        b"\xa0" + bytes(12),
    ],
    ids=["empty", "short", "version", "csrc", "extension", "extension length", "padding", "long padding", "no padding"],
)
def test_malformed_rtp_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_rtp(data)


def test_an_extension_is_padded_to_words() -> None:
    with pytest.raises(LocalProtocolError):
        PLAIN._replace(extension_profile=0xBEDE, extension_data=b"abc").encode()


@pytest.mark.parametrize("seed", range(3))
def test_mutated_packets_raise_only_decode_errors(seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    whole = PLAIN._replace(csrcs=(9,), extension_profile=0xBEDE, extension_data=b"\x12abc\x20d\0\0", padding=4)
    taken = 0
    for broken in mutations(whole.encode(), rng, 3000):
        try:
            packet = decode_rtp(broken)
            assert packet.encode()[:12] == broken[:12]
            assert isinstance(packet.extensions, dict)
        except DecodeError:
            continue
        taken += 1
    assert taken > 500
