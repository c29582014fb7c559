import pytest

from antiphon_common.errors import DecodeError
from antiphon_common.formats import AudioFormat, opus_duration


@pytest.mark.parametrize(("name", "size"), [("pcm16/16000", 640), ("pcm16/24000", 960), ("pcm16/48000", 1920)])
def test_a_pcm_frame_lasts_twenty_milliseconds_at_every_rate(name: str, size: int) -> None:
    audio = AudioFormat.parse(name)
    assert audio.frame_bytes == size
    assert audio.duration(bytes(size)) == 960


@pytest.mark.parametrize("name", ["pcm16", "pcm16/8000", "OPUS", ""])
def test_an_unknown_format_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no audio format"):
        AudioFormat.parse(name)


@pytest.mark.parametrize(
    ("packet", "ticks"),
    [
        ("08", 960),  # SILK, 20 ms, one frame
        ("19", 2 * 2880),  # SILK, 60 ms, two frames
        ("68", 960),  # hybrid, 20 ms
        ("80", 120),  # CELT, 2.5 ms
        ("fa", 2 * 960),  # CELT, 20 ms, two frames of different size
        ("fb06", 6 * 960),  # CELT, 20 ms, six frames
        ("fb81", 960),  # the frame count stands in the six low bits
    ],
)
def test_the_duration_of_an_opus_packet_is_read(packet: str, ticks: int) -> None:
    assert opus_duration(bytes.fromhex(packet)) == ticks


@pytest.mark.parametrize("packet", ["", "fb", "fb00", "fb07", "1b03"])
def test_a_malformed_opus_packet_is_refused(packet: str) -> None:
    with pytest.raises(DecodeError):
        opus_duration(bytes.fromhex(packet))


@pytest.mark.parametrize("size", [0, 1, 959])
def test_pcm_with_an_incomplete_sample_is_refused(size: int) -> None:
    with pytest.raises(DecodeError):
        AudioFormat.parse("pcm16/24000").duration(bytes(size))
