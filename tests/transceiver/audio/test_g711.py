from array import array
from bisect import bisect

import pytest

from antiphon_common.errors import DecodeError
from antiphon_transceiver.audio import OpusEncoder
from antiphon_transceiver.audio.g711 import FADE, G711Decoder, G711Encoder, OpusToG711
from support.audio.speech import correlation, speech

LAWS = ("pcmu", "pcma")
EVERY_CODE = bytes(range(256))

DECODED = {
    "pcmu": {0x00: -32124, 0x0F: -16764, 0x7F: 0, 0x80: 32124, 0xEF: 132, 0xFE: 8, 0xFF: 0},
    "pcma": {0x00: -5504, 0x2A: -32256, 0x55: -8, 0xAA: 32256, 0xD5: 8, 0xD4: 24, 0xFF: 848},
}
"""Some rows of the tables 1 and 2 of ITU-T G.711, scaled to 16 bits."""


def samples(pcm: bytes) -> list[int]:
    return list(array("h", pcm))


@pytest.mark.parametrize("law", LAWS)
def test_error_codes_have_the_values_of_the_standard(law: str) -> None:
    decoded = samples(G711Decoder(law, 8000).decode(EVERY_CODE))
    assert {code: decoded[code] for code in DECODED[law]} == DECODED[law]


@pytest.mark.parametrize("law", LAWS)
def test_each_sample_is_encoded_as_a_nearest_code(law: str) -> None:
    levels = sorted(samples(G711Decoder(law, 8000).decode(EVERY_CODE)))
    every = array("h", range(levels[0], levels[-1], 7))
    encoder, decoder = G711Encoder(law, 8000), G711Decoder(law, 8000)
    for start in range(0, len(every), 800):
        given = every[start : start + 800]
        for sample, found in zip(given, samples(decoder.decode(encoder.encode(given.tobytes()))), strict=True):
            above = bisect(levels, sample)
            step = levels[above] - levels[above - 1]
            assert abs(found - sample) <= step * 2 / 3  # half of it, except where steps of two sizes meet


@pytest.mark.parametrize("law", LAWS)
def test_encoding_inverts_decoding_of_g711(law: str) -> None:
    pcm = G711Decoder(law, 8000).decode(EVERY_CODE)
    again = G711Encoder(law, 8000).encode(pcm)
    negative_zero = 0x7F
    assert all(code == EVERY_CODE[index] for index, code in enumerate(again) if index != negative_zero)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
def test_speech_is_preserved_at_every_rate(law: str, rate: int) -> None:
    pcm = speech(1, rate)
    frame = rate // 50 * 2
    encoder, decoder = G711Encoder(law, rate), G711Decoder(law, rate)
    packets = [encoder.encode(pcm[start : start + frame]) for start in range(0, len(pcm), frame)]
    assert {len(packet) for packet in packets} == {160}
    heard = b"".join(map(decoder.decode, packets))
    assert len(heard) == len(pcm)
    similarity, lag = correlation(pcm, heard, rate // 200, rate // 8000)
    assert similarity > 0.9, f"{similarity:.2f} at a lag of {lag} samples"


def test_concealment_repeats_the_last_frame_with_decreasing_volume() -> None:
    decoder = G711Decoder("pcmu", 8000)
    last = samples(decoder.decode(G711Encoder("pcmu", 8000).encode(speech(0.5, 8000)[-320:])))
    for loudness in (*FADE, 0):
        assert samples(decoder.conceal(160)) == [int(sample * loudness) for sample in last]
    decoder.decode(EVERY_CODE[:20])
    assert any(samples(decoder.conceal(20)))


@pytest.mark.parametrize("packet", [b"", bytes(961)])
def test_a_packet_without_samples_or_with_too_many_is_refused(packet: bytes) -> None:
    with pytest.raises(DecodeError):
        G711Decoder("pcma", 8000).decode(packet)


def test_opus_of_a_backend_is_transcoded_to_g711_of_the_same_duration() -> None:
    pcm = speech(1, 24_000)
    encoder, transcoder = OpusEncoder(24_000), OpusToG711("pcma")
    packets = [transcoder.encode(encoder.encode(pcm[start : start + 960])) for start in range(0, len(pcm), 960)]
    assert {len(packet) for packet in packets} == {160}
    assert len(transcoder.encode(b"\x6a\xff\xff")) == 160
