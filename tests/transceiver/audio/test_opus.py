import subprocess
import sys

import pytest

from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_transceiver.audio import OpusDecoder, OpusEncoder, carries_fec, packet_duration
from support.audio.speech import correlation, speech

RATES = (16_000, 24_000, 48_000)


def encode(pcm: bytes, encoder: OpusEncoder) -> list[bytes]:
    size = encoder.frame_size
    return [encoder.encode(pcm[start : start + size]) for start in range(0, len(pcm), size)]


@pytest.mark.parametrize("rate", RATES)
def test_decoded_speech_resembles_the_encoded_speech(rate: int) -> None:
    pcm = speech(2, rate)
    packets = encode(pcm, OpusEncoder(rate))
    decoder = OpusDecoder(rate)
    heard = b"".join(map(decoder.decode, packets))
    assert len(heard) == len(pcm)
    assert {packet_duration(packet) for packet in packets} == {960}
    second = slice(rate, 3 * rate)
    similarity, lag = correlation(pcm[second], heard[rate:], rate // 100, rate // 8000)
    assert similarity > 0.8, f"{similarity:.2f} at a lag of {lag} samples"


def test_each_packet_is_decoded_at_any_rate() -> None:
    packets = encode(speech(1), OpusEncoder(24_000))
    for rate in RATES:
        decoder = OpusDecoder(rate)
        assert {len(decoder.decode(packet)) for packet in packets} == {rate // 50 * 2}


def test_recovered_audio_is_closer_to_the_original_than_concealed_audio() -> None:
    pcm = speech(4)
    packets = encode(pcm, OpusEncoder(24_000))
    lost = [index for index in range(10, 190, 10) if carries_fec(packets[index + 1])]
    assert len(lost) > 10

    def similarity(*, fec: bool) -> float:
        clean, decoder = OpusDecoder(24_000), OpusDecoder(24_000)
        total = 0.0
        for index, packet in enumerate(packets):
            expected = clean.decode(packet)
            if index not in lost:
                decoder.decode(packet)
                continue
            heard = decoder.recover(packets[index + 1], 480) if fec else decoder.conceal(480)
            total += correlation(expected, heard, 0)[0]
        return total / len(lost)

    assert similarity(fec=True) > similarity(fec=False) + 0.1
    assert similarity(fec=True) > 0.7


def test_no_fec_is_encoded_without_expected_loss() -> None:
    assert not any(map(carries_fec, encode(speech(1), OpusEncoder(24_000, fec=False))))
    encoder = OpusEncoder(24_000, fec=False)
    encoder.set_loss(20)
    assert any(map(carries_fec, encode(speech(1), encoder)))


def test_bitrate_and_dtx_follow_the_settings() -> None:
    pcm = speech(2)
    high = sum(map(len, encode(pcm, OpusEncoder(24_000))))
    encoder = OpusEncoder(24_000)
    encoder.set_bitrate(12_000)
    low = sum(map(len, encode(pcm, encoder)))
    assert 6_000 < high < 10_000  # 32 kbit/s
    assert low < high / 2
    assert min(map(len, encode(bytes(24_000 * 4), OpusEncoder(24_000, dtx=True)))) <= 2


def test_concealment_has_the_requested_duration() -> None:
    decoder = OpusDecoder(24_000)
    decoder.decode(encode(speech(0.1), OpusEncoder(24_000))[0])
    assert [len(decoder.conceal(samples)) for samples in (60, 240, 480, 1440)] == [120, 480, 960, 2880]


@pytest.mark.parametrize("packet", [b"", b"\xff", b"\x6b\x00", b"\x6a\xff\xff"])
def test_bad_packets_raise_decode_error(packet: bytes) -> None:
    with pytest.raises(DecodeError):
        OpusDecoder(24_000).decode(packet)


def test_invalid_arguments_raise_local_protocol_error() -> None:
    with pytest.raises(LocalProtocolError, match="960"):
        OpusEncoder(24_000).encode(bytes(962))
    with pytest.raises(LocalProtocolError, match="11025"):
        OpusEncoder(11_025)
    with pytest.raises(LocalProtocolError, match="refuses"):
        OpusEncoder(24_000).set_bitrate(-5)


@pytest.mark.parametrize("bundled", [True, False])
def test_a_missing_libopus_is_reported_once(bundled: bool) -> None:
    """Another process, whose loader does not find the system's library, reports it."""
    script = f"""
import cffi
from antiphon_transceiver.audio import libopus
dlopen = cffi.FFI.dlopen
def missing(self, name, *rest):
    if name == libopus.SONAME or not {bundled}:
        raise OSError(name)
    return dlopen(self, name, *rest)
cffi.FFI.dlopen = missing
try:
    print(libopus.load().version)
except libopus.OpusUnavailableError as error:
    print(error)
"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "libopus" in output
    assert bundled or "Debian package libopus0" in output
