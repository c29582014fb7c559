from collections.abc import Iterator
from math import inf

import pytest

from antiphon_common.errors import DecodeError
from antiphon_common.frames import CREDIT_MS
from antiphon_transceiver.audio import (
    MAX_BUFFERED_MS,
    OpusDecoder,
    OverrunError,
    Playout,
    PlayoutPacket,
    packet_duration,
)
from antiphon_transceiver.audio.g711 import G711Decoder
from antiphon_transceiver.audio.playout import CREDIT_STEP_MS, MAX_ENTRIES, MAX_LATE, MAX_RESPONSES, PARTIAL_WAIT
from support.audio.speech import correlation, speech
from support.sim.work_counter import work_of

START = 1000.0
RATE = 24_000
FRAME = 960
"""Bytes of 20 ms at 24 kHz."""

OPUS_20 = b"\x68\x00\x01"
OPUS_2_5 = b"\xe0\x01"


def play(playout: Playout, since: float, until: float = float("inf")) -> Iterator[tuple[float, PlayoutPacket]]:
    """Poll as a shell does: now and at each timeout before `until`."""
    now = since
    while now < until:
        while (packet := playout.poll(now)) is not None:
            yield now, packet
        timeout = playout.poll_timeout()
        if timeout == inf:
            return
        now = max(now, timeout)


def played(playout: Playout, since: float, until: float = float("inf")) -> list[tuple[float, PlayoutPacket]]:
    return list(play(playout, since, until))


@pytest.mark.parametrize(
    ("format", "rate"), [("pcm16/16000", 16_000), ("pcm16/24000", 24_000), ("pcm16/48000", 48_000)]
)
def test_a_burst_is_sent_as_one_packet_every_20_ms(format: str, rate: int) -> None:
    playout = Playout(format, first_timestamp=0xFFFFFF00)
    playout.append(1, speech(1, rate))
    packets = played(playout, START)
    assert [round((now - START) * 1000) for now, _ in packets] == list(range(0, 1000, 20))
    assert [packet.timestamp for _, packet in packets] == [(0xFFFFFF00 + 960 * n) % 2**32 for n in range(50)]
    assert [packet.marker for _, packet in packets] == [True] + [False] * 49
    decoder = OpusDecoder(rate)
    assert {len(decoder.decode(packet.payload)) for _, packet in packets} == {rate // 50 * 2}


def test_opus_packets_are_passed_through_at_the_pace_of_their_durations() -> None:
    playout = Playout("opus")
    sent = [b"\xe0\x01", b"\x40\x02", b"\x68\x03", b"\x50\x04", b"\x58\x05", b"\x68\x06"]
    for packet in sent:
        playout.append(1, packet)
    packets = played(playout, START)
    assert [packet.payload for _, packet in packets] == sent
    starts = [sum(map(packet_duration, sent[:n])) for n in range(len(sent))]
    assert [packet.timestamp for _, packet in packets] == starts
    assert [round((now - START) * 48_000) for now, _ in packets] == starts


def test_audio_of_any_length_is_sent_in_whole_packets() -> None:
    pcm = speech(0.5)
    whole, pieces = Playout("pcm16/24000"), Playout("pcm16/24000")
    whole.append(1, pcm)
    for start in range(0, len(pcm), 554):
        pieces.append(1, pcm[start : start + 554])
    assert played(pieces, START) == played(whole, START)


def test_the_last_packet_of_a_response_is_padded_with_silence() -> None:
    playout = Playout("pcm16/24000")
    playout.append(1, bytes(FRAME + 480))
    playout.end(1)
    playout.append(2, bytes(FRAME))
    packets = played(playout, START)
    assert [packet.timestamp for _, packet in packets] == [0, 960, 1920]
    assert playout.clear(1) == 30


def test_an_incomplete_packet_without_more_audio_is_sent_after_a_moment() -> None:
    playout = Playout("pcm16/24000")
    playout.append(1, bytes(480))
    ((now, _),) = played(playout, START)
    assert now == pytest.approx(START + PARTIAL_WAIT, abs=0.0026)


def test_timestamps_advance_during_silence() -> None:
    playout = Playout("pcm16/24000")
    playout.append(1, bytes(FRAME * 2))
    first = played(playout, START)
    playout.append(1, bytes(FRAME * 2))
    again = played(playout, START + 10)
    assert [packet.timestamp for _, packet in first + again] == [0, 960, 480_000, 480_960]
    assert [packet.marker for _, packet in first + again] == [True, False, True, False]


def test_a_short_underrun_shifts_the_packet_grid_without_a_marker_bit() -> None:
    playout = Playout("opus")
    playout.append(1, OPUS_20)
    played(playout, START)
    for _ in range(3):
        playout.append(1, OPUS_20)
    packets = played(playout, START + 0.041)
    assert [round((now - START) * 1000, 1) for now, _ in packets] == [45.0, 65.0, 85.0]
    assert [packet.timestamp for _, packet in packets] == [2160, 3120, 4080]
    assert not any(packet.marker for _, packet in packets)


def test_frames_that_arrive_in_real_time_keep_one_packet_grid() -> None:
    playout = Playout("opus")
    timestamps = []
    for index in range(100):
        arrives = START + index * 0.02 + (index % 3) * 0.001
        playout.append(1, OPUS_20)
        timestamps += [packet.timestamp for _, packet in play(playout, arrives, arrives + 0.017)]
    assert timestamps == [index * 960 for index in range(100)]


def test_a_late_poll_catches_up_and_a_very_late_one_skips_time() -> None:
    playout = Playout("opus")
    for _ in range(20):
        playout.append(1, OPUS_20)
    played(playout, START, START + 0.05)
    burst = [packet.timestamp for packet in iter(lambda: playout.poll(START + 0.06 + MAX_LATE - 0.001), None)]
    assert burst == [2880, 3840, 4800]
    assert playout.poll_timeout() == pytest.approx(START + 0.12)
    later = [packet.timestamp for packet in iter(lambda: playout.poll(START + 1), None)]
    assert later == [48_000]
    assert playout.skipped == 1
    assert playout.poll_timeout() == pytest.approx(START + 1.02)


def test_deadlines_of_all_calls_lie_on_one_packet_grid() -> None:
    for offset in range(100):
        playout = Playout("opus")
        playout.append(1, OPUS_20)
        ((now, _),) = played(playout, START + offset / 7000)
        assert (now * 200) % 1 == pytest.approx(0, abs=1e-6)
        assert -1e-9 < now - START - offset / 7000 < 0.0051


def test_clearing_reports_the_audio_played_and_timestamps_continue() -> None:
    playout = Playout("pcm16/24000")
    playout.append(1, bytes(FRAME * 10))
    playout.append(2, bytes(FRAME * 10))
    before = played(playout, START, START + 0.25)
    assert playout.clear(2) == 60
    assert playout.buffered_ms == 0
    assert playout.poll_timeout() == inf
    playout.append(2, bytes(FRAME))
    playout.append(1, bytes(FRAME))
    assert (playout.buffered_ms, playout.discarded_ms) == (0, 40)
    playout.append(3, bytes(FRAME * 2))
    after = played(playout, START + 0.3)
    assert [packet.timestamp for _, packet in before] == [960 * n for n in range(13)]
    assert [packet.timestamp for _, packet in after] == [14_400, 15_360]


def test_clearing_keeps_later_responses() -> None:
    playout = Playout("pcm16/24000")
    playout.append(1, bytes(FRAME + 10))
    playout.append(2, bytes(FRAME + 10))
    assert playout.clear(1) == 0
    assert playout.buffered_ms == 20
    playout.end(2)
    assert len(played(playout, START)) == 2


def test_the_cost_of_clearing_does_not_grow_with_the_audio_kept() -> None:
    """A message may contain 4,096 Clear frames while 1,600 packets of a later response wait."""

    def clear_with(packets: int) -> int:
        playout = Playout("opus")
        for _ in range(packets):
            playout.append(2, OPUS_2_5)
        return sum(work_of(lambda: playout.clear(1)))

    assert clear_with(1600) == clear_with(1)


def test_the_end_of_a_cleared_response_has_no_effect() -> None:
    playout = Playout("opus")
    playout.append(2, OPUS_20)
    playout.end(1)
    playout.clear(1)
    playout.end(2)
    assert len(played(playout, START)) == 1


def test_clearing_drops_an_incomplete_packet() -> None:
    playout = Playout("pcm16/24000")
    playout.append(1, bytes(FRAME // 2))
    assert playout.buffered_ms == 10
    playout.clear(1)
    assert (playout.buffered_ms, playout.poll_timeout()) == (0, inf)
    assert played(playout, START) == []


def test_the_played_time_of_only_the_latest_responses_is_remembered() -> None:
    playout = Playout("opus")
    for response in range(1, MAX_RESPONSES + 2):
        playout.append(response, OPUS_20)
    played(playout, START)
    assert [playout.clear(1), playout.clear(2), playout.clear(MAX_RESPONSES + 1)] == [0, 20, 20]


def test_all_appended_audio_is_credited_eventually() -> None:
    playout = Playout("pcm16/24000")
    playout.append(1, bytes(48 * 505))
    playout.end(1)
    playout.append(2, bytes(48 * 300))
    played(playout, START, START + 0.15)
    assert playout.take_drained() == 160
    assert playout.take_drained() == 0
    playout.clear(1)
    playout.append(1, bytes(48 * 100))
    played(playout, START + 0.2)
    assert playout.take_drained() == 505 - 160 + 100 + 300
    assert CREDIT_STEP_MS <= 100


def test_fractions_of_a_millisecond_are_credited_with_the_next_grant() -> None:
    playout = Playout("opus")
    for _ in range(82):
        playout.append(1, OPUS_2_5)
    played(playout, START, START + 0.1025)
    assert playout.take_drained() == 102
    played(playout, START + 0.1025)
    assert playout.take_drained() == 103


@pytest.mark.parametrize("format", ["opus", "pcm16/24000"])
def test_audio_beyond_the_credit_is_an_overrun(format: str) -> None:
    playout = Playout(format)
    frame = OPUS_20 if format == "opus" else bytes(FRAME)
    for _ in range(CREDIT_MS // 20):
        playout.append(1, frame)
    for _ in range((MAX_BUFFERED_MS - CREDIT_MS) // 20):
        playout.append(1, frame)
    with pytest.raises(OverrunError):
        playout.append(1, frame)


def test_packets_cut_short_by_ends_of_responses_are_bounded() -> None:
    playout = Playout("pcm16/24000")
    for response in range(1, MAX_ENTRIES + 1):
        playout.append(response, b"\0\0")
        playout.end(response)
    with pytest.raises(OverrunError):
        playout.append(MAX_ENTRIES, b"\0\0")
    with pytest.raises(OverrunError):
        playout.end(MAX_ENTRIES)


@pytest.mark.parametrize(("format", "data"), [("opus", b"\x6b\x00"), ("pcm16/24000", b"abc")])
def test_malformed_audio_is_refused(format: str, data: bytes) -> None:
    with pytest.raises(DecodeError):
        Playout(format).append(1, data)


def test_an_empty_packet_has_no_effect() -> None:
    playout = Playout("opus")
    playout.append(1, b"")
    assert playout.poll(START) is None
    assert playout.poll_timeout() == inf


@pytest.mark.parametrize("format", ["pcm16/16000", "pcm16/24000", "pcm16/48000"])
def test_pcm_is_encoded_as_g711_with_an_8_khz_clock(format: str) -> None:
    rate = int(format.partition("/")[2])
    playout = Playout(format, "pcmu", first_timestamp=7)
    pcm = speech(0.5, rate)
    playout.append(1, pcm)
    packets = [packet for _, packet in play(playout, START)]
    assert {len(packet.payload) for packet in packets} == {160}
    assert [packet.timestamp for packet in packets] == [7 + index * 160 for index in range(25)]
    heard = b"".join(map(G711Decoder("pcmu", rate).decode, (packet.payload for packet in packets)))
    similarity, lag = correlation(pcm, heard, rate // 200)
    assert similarity > 0.9, f"{similarity:.2f} at a lag of {lag} samples"


def test_opus_is_transcoded_to_g711_with_an_8_khz_clock() -> None:
    playout = Playout("opus", "pcma")
    for _ in range(3):
        playout.append(1, OPUS_20)
    packets = [packet for _, packet in play(playout, START)]
    assert [(len(packet.payload), packet.timestamp) for packet in packets] == [(160, 0), (160, 160), (160, 320)]
    assert playout.encoder is None
