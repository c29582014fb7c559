"""The common header and its checksum."""

import pytest

from antiphon_common.errors import DecodeError
from antiphon_transceiver.sctp import chunks
from antiphon_transceiver.sctp.packet import SctpPacket

PACKET = SctpPacket(5000, 5001, 0xDEADBEEF, [chunks.CookieAck(), chunks.Data(1, 2, 3, 51, b"hello")])


def test_decoding_inverts_encoding() -> None:
    assert SctpPacket.decode(PACKET.encode()) == PACKET


@pytest.mark.parametrize("position", range(0, len(PACKET.encode()), 3))
def test_a_changed_byte_is_a_decode_error(position: int) -> None:
    changed = bytearray(PACKET.encode())
    changed[position] ^= 0x40
    with pytest.raises(DecodeError):
        SctpPacket.decode(bytes(changed))


@pytest.mark.parametrize("data", [b"", PACKET.encode()[:11], SctpPacket(1, 2, 3, []).encode()], ids=len)
def test_a_packet_without_chunks_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        SctpPacket.decode(data)
