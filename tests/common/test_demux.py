import pytest

from antiphon_common.demux import Protocol, classify


@pytest.mark.parametrize(
    ("first_bytes", "protocol"),
    [
        (range(4), Protocol.STUN),
        (range(4, 20), Protocol.UNKNOWN),
        (range(20, 64), Protocol.DTLS),
        (range(64, 128), Protocol.UNKNOWN),
        (range(128, 192), Protocol.RTP),
        (range(192, 256), Protocol.UNKNOWN),
    ],
)
def test_protocols_are_classified_by_the_first_byte(first_bytes: range, protocol: Protocol) -> None:
    """The ranges of RFC 7983 §7."""
    assert {classify(bytes((first, 0, 0, 0))) for first in first_bytes} == {protocol}


@pytest.mark.parametrize("marker", [0, 0x80])
def test_rtcp_is_classified_by_its_packet_type(marker: int) -> None:
    """RTP payload types 64 to 95 are not used where RTCP shares the port (RFC 5761 §4)."""
    kinds = {second: classify(bytes((0x80, second | marker))) for second in range(128)}
    rtcp = {second for second, protocol in kinds.items() if protocol == Protocol.RTCP}
    assert rtcp == (set(range(64, 96)) if marker else set())


@pytest.mark.parametrize("datagram", [b"", b"\x80", b"\x00"])
def test_short_datagrams_are_not_classified(datagram: bytes) -> None:
    assert classify(datagram) == Protocol.UNKNOWN
