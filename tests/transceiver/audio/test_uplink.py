import itertools

import pytest

from antiphon_common.frames import FrameStatus
from antiphon_transceiver.audio import OpusDecoder, OpusEncoder, UplinkAudio, UplinkFrame, carries_fec, packet_duration
from antiphon_transceiver.audio.g711 import G711Encoder
from antiphon_transceiver.rtp import RedundantBlock
from support.audio.speech import correlation, speech

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
def test_pcm_is_contiguous_and_positions_count_its_samples(format: str) -> None:
    pcm = speech(2)
    packets = encode(pcm)
    lost = {30, 31, 60}
    frames = carry(UplinkAudio(format), packets, lost)
    samples = RATES[format] // 50
    assert [frame.position for frame in frames] == [index * samples for index in range(len(packets))]
    assert {len(frame.data) for frame in frames} == {samples * 2}
    assert [index for index, frame in enumerate(frames) if frame.status is not FrameStatus.RECEIVED] == sorted(lost)


def test_the_backend_receives_the_audio_that_was_sent() -> None:
    pcm = speech(3)
    packets = encode(pcm)
    lost = {index for index in range(20, 140, 12) if carries_fec(packets[index + 1])}
    frames = carry(UplinkAudio("pcm16/24000"), packets, lost)
    assert {frame.status for frame in frames} == {FrameStatus.RECEIVED, FrameStatus.RECOVERED}
    heard = b"".join(frame.data for frame in frames)
    similarity, lag = correlation(pcm[48_000:96_000], heard[48_000:], 240, 3)
    assert similarity > 0.75, f"{similarity:.2f} at a lag of {lag} samples"


def test_opus_is_passed_through_and_a_loss_has_no_data() -> None:
    packets = encode(speech(1))
    uplink = UplinkAudio("opus")
    frames = carry(uplink, packets, {10})
    assert [frame.data for frame in frames] == [*packets[:10], b"", *packets[11:]]
    assert [frame.position for frame in frames] == [index * 960 for index in range(50)]
    assert frames[10].status is not FrameStatus.RECEIVED
    assert uplink.statistics()["lost"] == 1


def test_an_undecodable_packet_is_concealed() -> None:
    packets = encode(speech(0.5))
    packets[10] = b"\x6a\xff\xff"  # a first frame longer than the packet
    uplink = UplinkAudio("pcm16/24000")
    frames = carry(uplink, packets, set())
    assert frames[10].status is FrameStatus.CONCEALED
    assert uplink.statistics()["undecodable"] == 1


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="mp3"):
        UplinkAudio("mp3")


def g711(pcm: bytes, law: str, samples: int, rate: int = 8000) -> list[bytes]:
    encoder, size = G711Encoder(law, rate), 2 * samples * rate // 8000
    return [encoder.encode(pcm[start : start + size]) for start in range(0, len(pcm), size)]


def carry_g711(uplink: UplinkAudio, packets: list[bytes], samples: int, lost: set[int]) -> list[UplinkFrame]:
    frames = []
    for index, payload in enumerate(packets):
        now = 5 + index * samples / 8000
        if index not in lost:
            uplink.receive(index, index * samples, payload, now)
        while (frame := uplink.poll(now)) is not None:
            frames.append(frame)
        while (timeout := uplink.poll_timeout()) < now + samples / 8000:
            while (frame := uplink.poll(timeout)) is not None:
                frames.append(frame)
    return frames


@pytest.mark.parametrize("format", RATES)
def test_g711_is_decoded_to_pcm(format: str) -> None:
    rate = RATES[format]
    pcm = speech(2, rate)
    packets = g711(pcm, "pcma", 160, rate)
    frames = carry_g711(UplinkAudio(format, "pcma"), packets, 160, {30, 31, 60})
    assert [frame.position for frame in frames[:100]] == [index * rate // 50 for index in range(100)]
    assert {len(frame.data) for frame in frames} == {rate // 25}
    assert [index for index, frame in enumerate(frames[:100]) if frame.status is FrameStatus.CONCEALED] == [30, 31, 60]
    similarity, lag = correlation(pcm[:rate], b"".join(frame.data for frame in frames), rate // 200)
    assert similarity > 0.9, f"{similarity:.2f} at a lag of {lag} samples"


@pytest.mark.parametrize("samples", [80, 160, 240])
def test_g711_packets_of_any_duration_are_encoded_as_opus_of_20_ms(samples: int) -> None:
    frames = carry_g711(UplinkAudio("opus", "pcmu"), g711(speech(3, 8000), "pcmu", samples), samples, {10, 11})
    assert {packet_duration(frame.data) for frame in frames} == {960}
    assert [frame.position for frame in frames] == [index * 960 for index in range(len(frames))]
    touched = {start // 160 for start in range(10 * samples, 12 * samples, 20)}
    assert {index for index, frame in enumerate(frames[:140]) if frame.status is not FrameStatus.RECEIVED} == touched
    decoder = OpusDecoder(8000)
    heard = b"".join(decoder.decode(frame.data) for frame in frames)
    similarity, lag = correlation(speech(3, 8000)[24_000:], heard[24_000:], 80)
    assert similarity > 0.8, f"{similarity:.2f} at a lag of {lag} samples"


def test_a_pause_of_g711_ends_the_opus_packet_before_it() -> None:
    uplink = UplinkAudio("opus", "pcmu")
    pcm = speech(1, 8000)
    packets = g711(pcm, "pcmu", 240)
    uplink.receive(0, 0, packets[0], 5.0)
    uplink.receive(1, 8000, packets[1], 6.0)
    frames = []
    for now in (5.0, 6.0):
        while (frame := uplink.poll(now)) is not None:
            frames.append(frame)
    assert [frame.position for frame in frames] == [0, 960, 48_000]


def test_audio_of_redundant_blocks_equals_the_lost_audio() -> None:
    packets = encode(speech(1))
    uplink, frames = UplinkAudio("opus"), []
    for index in (0, 2, 3):
        again = [RedundantBlock(960, packets[index - 1])] if index else []
        uplink.receive(index, index * 960, packets[index], 5 + index * 0.02, again)
        while (frame := uplink.poll(5 + index * 0.02)) is not None:
            frames.append(frame)
    assert [frame.data for frame in frames] == packets[:4]
    assert [frame.status for frame in frames] == [
        FrameStatus.RECEIVED,
        FrameStatus.RECOVERED,
        FrameStatus.RECEIVED,
        FrameStatus.RECEIVED,
    ]


@pytest.mark.parametrize("format", [*RATES, "opus"])
@pytest.mark.parametrize("samples", [1, 3, 19, 20, 83, 161, 959])
def test_lost_g711_packets_of_any_length_are_concealed_and_every_drain_ends(samples: int, format: str) -> None:
    """Lengths below the shortest concealment of Opus, and lengths that are not a multiple of it."""
    uplink = UplinkAudio(format, "pcmu")
    frames: list[UplinkFrame] = []

    def drain(now: float) -> None:
        while (frame := uplink.poll(now)) is not None:
            frames.append(frame)
            assert len(frames) < 100

    def wait_until(now: float) -> None:
        while (timeout := uplink.poll_timeout()) < now:
            drain(timeout)

    for index in (0, 1, 2, 5, 6, 7):
        now = 5 + index * samples / 8000
        wait_until(now)
        uplink.receive(index, index * samples, bytes(samples), now)
        drain(now)
    wait_until(now + 0.2)
    for first, second in itertools.pairwise(frames):
        lasts = packet_duration(first.data) if format == "opus" else len(first.data) // 2
        assert second.position >= first.position + lasts
    assert uplink.statistics()["lost"] == 2
    assert len([frame for frame in frames if frame.status is FrameStatus.RECEIVED]) == 6 or format == "opus"
    if format != "opus" and 20 <= samples <= 160:
        assert sum(len(frame.data) for frame in frames[:8]) == 16 * samples * RATES[format] // 8000


def test_short_gaps_of_g711_become_silence_and_frames_do_not_overlap() -> None:
    """3 ms of audio in every 8."""
    uplink = UplinkAudio("opus", "pcmu")
    packets, frames = g711(speech(1, 8000), "pcmu", 24), []
    for index in range(200):
        uplink.receive(index, index * 64, packets[index], 5 + index * 64 / 8000)
        while (frame := uplink.poll(5 + index * 64 / 8000)) is not None:
            frames.append(frame)
    assert all(second.position >= first.position + 960 for first, second in itertools.pairwise(frames))
    assert len(frames) * 0.02 > 0.8 * 200 * 64 / 8000
