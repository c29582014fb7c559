import pytest

from antiphon_common.frames import Origin
from antiphon_transceiver.audio import OpusEncoder, UplinkAudio, UplinkFrame, carries_fec
from support.speech import correlation, speech

RATES = {"pcm16/16000": 16_000, "pcm16/24000": 24_000, "pcm16/48000": 48_000}


def encode(pcm: bytes) -> list[bytes]:
    encoder = OpusEncoder(24_000)
    return [encoder.encode(pcm[start : start + 960]) for start in range(0, len(pcm), 960)]


def carry(uplink: UplinkAudio, packets: list[bytes], lost: set[int]) -> list[UplinkFrame]:
    frames = []
    for index, payload in enumerate(packets):
        now = 5 + index * 0.02
        if index not in lost:
            uplink.receive(index, index * 960, payload, now)
        while (frame := uplink.poll(now)) is not None:
            frames.append(frame)
    return frames


@pytest.mark.parametrize("format", RATES)
def test_pcm_has_no_holes_and_counts_its_own_samples(format: str) -> None:
    pcm = speech(2)
    packets = encode(pcm)
    lost = {30, 31, 60}
    frames = carry(UplinkAudio(format), packets, lost)
    samples = RATES[format] // 50
    assert [frame.position for frame in frames] == [index * samples for index in range(len(packets))]
    assert {len(frame.data) for frame in frames} == {samples * 2}
    assert [index for index, frame in enumerate(frames) if frame.origin is not Origin.RECEIVED] == sorted(lost)


def test_what_the_backend_hears_is_what_was_said() -> None:
    pcm = speech(3)
    packets = encode(pcm)
    lost = {index for index in range(20, 140, 12) if carries_fec(packets[index + 1])}
    frames = carry(UplinkAudio("pcm16/24000"), packets, lost)
    assert {frame.origin for frame in frames} == {Origin.RECEIVED, Origin.RECOVERED}
    heard = b"".join(frame.data for frame in frames)
    similarity, lag = correlation(pcm[48_000:96_000], heard[48_000:], 240, 3)
    assert similarity > 0.75, f"{similarity:.2f} at a lag of {lag} samples"


def test_opus_passes_untouched_and_a_loss_has_no_data() -> None:
    packets = encode(speech(1))
    uplink = UplinkAudio("opus")
    frames = carry(uplink, packets, {10})
    assert [frame.data for frame in frames] == [*packets[:10], b"", *packets[11:]]
    assert [frame.position for frame in frames] == [index * 960 for index in range(50)]
    assert frames[10].origin is not Origin.RECEIVED
    assert uplink.statistics()["lost"] == 1


def test_an_undecodable_packet_is_concealed() -> None:
    packets = encode(speech(0.5))
    packets[10] = b"\x6a\xff\xff"  # a first frame longer than the packet
    uplink = UplinkAudio("pcm16/24000")
    frames = carry(uplink, packets, set())
    assert frames[10].origin is Origin.CONCEALED
    assert uplink.statistics()["undecodable"] == 1


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="mp3"):
        UplinkAudio("mp3")
