import pytest

from antiphon_common.errors import DecodeError
from antiphon_transceiver.audio import G711, OPUS, carries_fec, packet_duration


@pytest.mark.parametrize(
    ("packet", "milliseconds"),
    [
        (b"\x00", 10),  # SILK narrowband
        (b"\x58", 60),  # SILK wideband
        (b"\x68\x00", 20),  # hybrid
        (b"\x69\x00", 40),  # two frames of equal size
        (b"\x6a\x00", 40),  # two frames of their own sizes
        (b"\x6b\x06", 120),  # a counted number of frames
        (b"\xe0", 2.5),  # CELT
        (b"\xfb\x03", 60),
    ],
)
def test_the_duration_is_read_from_the_first_bytes(packet: bytes, milliseconds: float) -> None:
    assert packet_duration(packet) == milliseconds * 48


@pytest.mark.parametrize("packet", [b"", b"\x6b", b"\x6b\x00", b"\x6b\x07"])
def test_invalid_opus_packets_are_refused(packet: bytes) -> None:
    with pytest.raises(DecodeError):
        packet_duration(packet)


@pytest.mark.parametrize(
    ("packet", "carries"),
    [
        (b"\x68\x40", True),  # after one bit of voice activity
        (b"\x68\xbf", False),
        (b"\x50\x20", True),  # after two, for 40 ms
        (b"\x58\x10", True),  # after three, for 60 ms
        (b"\x6c\x10", True),  # the side channel of stereo
        (b"\x6a\x01\x40", True),  # behind the length of the first of two frames
        (b"\x6b\xc2\xff\x01\x01\x40", True),  # behind padding and lengths
        (b"\xe0\xff", False),  # CELT has none
        (b"\x68", False),
        (b"\x6b", False),
        (b"", False),
    ],
)
def test_fec_is_detected_without_decoding(packet: bytes, carries: bool) -> None:
    assert carries_fec(packet) is carries


def test_the_duration_of_g711_is_one_sample_per_byte() -> None:
    assert G711.duration(bytes(160)) == 960
    assert (G711.clock_ticks, G711.repeats(bytes(160))) == (6, 0)
    for packet in (b"", bytes(961)):
        with pytest.raises(DecodeError):
            G711.duration(packet)


def test_in_band_fec_covers_one_frame() -> None:
    assert OPUS.repeats(b"\x69\x40") == 960  # of two
    assert OPUS.repeats(b"\x68\x00") == 0
