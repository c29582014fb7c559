import pytest

from antiphon_common.control import Codec
from antiphon_transceiver.audio import OpusEncoder, SendAdaptation, carries_fec
from antiphon_transceiver.audio.adaptation import BITRATE, LOSS_LEVELS
from support.audio.speech import speech

PLAIN = Codec("opus", 111, 48_000, parameters={"useinbandfec": "1"})
REPEATED = Codec("opus", 111, 48_000, parameters={"useinbandfec": "1"}, redundancy=63)
SPEECH = speech(2)


def sent(encoder: OpusEncoder) -> list[bytes]:
    return [encoder.encode(SPEECH[start : start + 960]) for start in range(0, len(SPEECH), 960)]


def kilobits(packets: list[bytes], repetitions: int = 0) -> float:
    return sum(map(len, packets)) * 8 / 2 / 1000 * (1 + repetitions)


@pytest.mark.parametrize(
    ("percent", "offsets"), [(0, ()), (1, ()), (4, ()), (5, (1,)), (14, (1,)), (15, (1, 2)), (100, (1, 2))]
)
def test_losses_increase_the_redundancy(percent: int, offsets: tuple[int, ...]) -> None:
    adaptation = SendAdaptation(REPEATED, OpusEncoder(24_000))
    adaptation.report(percent)
    assert adaptation.redundancy_offsets == offsets


def test_burst_losses_increase_the_redundancy_offsets() -> None:
    """Random losses of 15 % are not mistaken for burst losses."""
    adaptation = SendAdaptation(REPEATED, OpusEncoder(24_000))
    chosen = []
    for percent, burst_ratio in ((2, 0.7), (5, 0.15), (5, 0.7), (15, 0.7), (15, 0.15)):
        adaptation.report(percent, burst_ratio)
        chosen.append(adaptation.redundancy_offsets)
    assert chosen == [(), (1,), (3,), (3, 6), (1, 2)]


def test_redundancy_ends_a_few_reports_after_the_losses() -> None:
    adaptation = SendAdaptation(REPEATED, None)
    offsets = []
    for percent in (20, 0, 0, 0, 0, 0):
        adaptation.report(percent)
        offsets.append(adaptation.redundancy_offsets)
    assert offsets == [(1, 2), (1, 2), (1,), (), (), ()]


def test_losses_near_a_threshold_do_not_toggle_the_level() -> None:
    adaptation = SendAdaptation(REPEATED, None)
    adaptation.report(5)
    for percent in (4, 6, 3, 5, 4):
        adaptation.report(percent)
        assert adaptation.redundancy_offsets == (1,)


@pytest.mark.parametrize("percent", [0, 2, 5, 15, 60])
def test_the_bitrate_stays_bounded(percent: int) -> None:
    encoder = OpusEncoder(24_000)
    adaptation = SendAdaptation(REPEATED, encoder)
    adaptation.report(percent)
    assert kilobits(sent(encoder), len(adaptation.redundancy_offsets)) < 1.5 * BITRATE / 1000


def test_in_band_fec_is_used_without_red_if_the_caller_can_decode_it() -> None:
    encoder, deaf = OpusEncoder(24_000), OpusEncoder(24_000)
    able, unable = SendAdaptation(PLAIN, encoder), SendAdaptation(Codec("opus", 111, 48_000), deaf)
    assert not any(map(carries_fec, sent(encoder)))
    for adaptation in (able, unable):
        adaptation.report(10)
        assert not adaptation.redundancy_offsets
    assert any(map(carries_fec, sent(encoder)))
    assert not any(map(carries_fec, sent(deaf)))


def test_heavy_losses_reduce_the_bitrate_of_each_packet() -> None:
    encoder = OpusEncoder(24_000)
    adaptation = SendAdaptation(Codec("opus", 111, 48_000), encoder)
    before = kilobits(sent(encoder))
    adaptation.report(30)
    assert kilobits(sent(encoder)) < 0.85 * before


@pytest.mark.parametrize(("given", "most"), [("12000", 15), ("1", 15), ("", 40), ("no number", 40), ("9" * 12, 40)])
def test_the_bitrate_stays_below_the_callers_limit(given: str, most: float) -> None:
    encoder = OpusEncoder(24_000)
    adaptation = SendAdaptation(Codec("opus", 111, 48_000, parameters={"maxaveragebitrate": given}), encoder)
    assert kilobits(sent(encoder)) < most
    adaptation.report(LOSS_LEVELS[-1].percent)
    assert kilobits(sent(encoder)) < most
