"""What is done about losses on the way to the caller: more redundancy, and fewer bits for each packet."""

from typing import Final, NamedTuple

from antiphon_common.control import Codec
from antiphon_transceiver.audio.opus import OpusEncoder

BITRATE: Final = 32_000
"""Bits a second of Opus without losses: wideband speech has nothing to gain from more."""

LOWEST_BITRATE: Final = 6_000
"""Bits a second below which Opus makes no sense (RFC 7587 §6.1); a caller may ask for less."""


MOST_FEC_PERCENT: Final = 10
"""The most that Opus is told of losses: for more, libopus 1.3 takes so much from the audio that less is understood."""


class Level(NamedTuple):
    """What is sent from a percentage of losses on: how many packets before it each repeats (RED), and the bitrate of
    Opus with RED and without."""

    percent: int
    blocks: int
    repeated_bitrate: int
    single_bitrate: int


LEVELS: Final = (
    Level(0, 0, BITRATE, BITRATE),
    Level(5, 1, 20_000, 28_000),
    Level(15, 2, 14_000, 24_000),
)
"""Losses may be congestion, so redundancy adds no more than a third to what is sent without it: 40 and 42 kbit/s. Where
only Opus's own FEC can help, which is a part of its bitrate and needs one that keeps it wideband, less is sent."""

NEAREST: Final = (1, 2)
"""The packets right before: back soonest, and of losses that come alone none further away would bring back more."""

APART: Final = (3, 6)
"""Of a run that many packets come back, by the nearer block or by both. A receiver has to wait for them, and Chromium
plays everything later by up to as much."""

RUN_SHARE: Final = 1 / 3
"""The share of lost packets behind another from which on losses are taken to come in runs: as of runs of one and a half
on average. Of losses that come alone it is as small as their share of all packets."""


def choose_distances(blocks: int, in_runs: float) -> tuple[int, ...]:
    """Return which packets before it each is to repeat in so many blocks, nearest first, where this share of those lost
    was lost right behind another."""
    return (APART if in_runs >= RUN_SHARE else NEAREST)[:blocks]


class SendAdaptation:
    """Follows the losses that the caller reports. `encoder` is None where the backend's Opus passes through: then only
    RED is ours to choose."""

    def __init__(self, codec: Codec, encoder: OpusEncoder | None) -> None:
        self.distances: tuple[int, ...] = ()
        """Which packets before it each is to repeat, nearest first."""
        self._encoder = encoder
        self._percent = 0
        self._level = LEVELS[0]
        self._repeats = codec.redundancy is not None
        self._uses_fec = codec.parameters.get("useinbandfec") == "1"
        self._ceiling = _ceiling(codec)
        if encoder is not None:
            encoder.set_loss(0, fec=False)
            encoder.set_bitrate(min(BITRATE, self._ceiling))

    def report(self, percent: int, in_runs: float = 0.0) -> None:
        """Take the losses of the time since the last report, 0 to 100, and the share of those lost lately, 0 to 1, that
        another was lost right before. Redundancy comes at once and fades over a few reports."""
        percent = max(percent, self._percent // 2)
        changed, self._percent = percent != self._percent, percent
        self._level = next(level for level in reversed(LEVELS) if percent >= self._threshold(level))
        self.distances = choose_distances(self._level.blocks if self._repeats else 0, in_runs)
        if changed and self._encoder is not None:
            # RED repeats better than in-band FEC, and at its bitrates FEC would cost the upper half of the spectrum.
            fec = self._uses_fec and percent > 0 and not self.distances
            self._encoder.set_loss(min(percent, MOST_FEC_PERCENT), fec=fec)
            bitrate = self._level.repeated_bitrate if self._repeats else self._level.single_bitrate
            self._encoder.set_bitrate(min(bitrate, self._ceiling))

    def _threshold(self, level: Level) -> float:
        """A level once reached is left only at half of its percentage."""
        return level.percent / 2 if level.percent <= self._level.percent else level.percent


def _ceiling(codec: Codec) -> int:
    """The caller's `maxaveragebitrate` (RFC 7587 §6.1)."""
    given = codec.parameters.get("maxaveragebitrate", "")
    return max(int(given), LOWEST_BITRATE) if given.isdecimal() and len(given) < 10 else BITRATE
