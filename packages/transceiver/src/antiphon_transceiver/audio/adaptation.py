"""Adapts the audio that is sent to the losses that the caller reports: more redundancy, and a lower bitrate."""

from typing import Final, NamedTuple

from antiphon_common.control import Codec
from antiphon_transceiver.audio.opus import OpusEncoder

BITRATE: Final = 32_000
"""Bitrate of Opus without losses, in bits a second. A higher one does not improve wideband speech."""

LOWEST_BITRATE: Final = 6_000
"""Lowest bitrate of Opus in bits a second (RFC 7587 §6.1). A caller may ask for less."""

MOST_FEC_PERCENT: Final = 10
"""Largest loss percentage that is reported to Opus. Beyond it libopus 1.3 takes too many bits from the audio."""


class LossLevel(NamedTuple):
    """The redundancy and bitrates that apply from a percentage of losses on; `LOSS_LEVELS` lists the levels.

    `redundant_blocks` is the number in each packet (RFC 2198). `redundant_bitrate` is the bitrate of Opus with RED,
    `single_bitrate` that without, in bits a second.
    """

    percent: int
    redundant_blocks: int
    redundant_bitrate: int
    single_bitrate: int


LOSS_LEVELS: Final = (
    LossLevel(0, 0, BITRATE, BITRATE),
    LossLevel(5, 1, 20_000, 28_000),
    LossLevel(15, 2, 14_000, 24_000),
)
"""Losses may mean congestion, so redundancy adds at most a third to the bitrate without it: 40 and 42 kbit/s. Without
RED, only Opus's own FEC helps. It is part of the bitrate, which must stay high enough for wideband."""

NEAREST: Final = (1, 2)
"""Redundancy offsets for single losses: the packets right before. They are recovered soonest."""

APART: Final = (3, 6)
"""Redundancy offsets for burst losses: both blocks survive a burst of two. The receiver has to wait for them: Chromium
delays all audio by up to the offset."""

MIN_BURST_RATIO: Final = 1 / 3
"""Smallest burst ratio of burst losses: bursts of one and a half packets on average. The burst ratio of independent
losses equals their loss ratio, which is far smaller."""


def choose_redundancy_offsets(redundant_blocks: int, burst_ratio: float) -> tuple[int, ...]:
    """Return the redundancy offsets of each packet, in packets, nearest first.

    `burst_ratio` is the share of lost packets, 0 to 1, whose predecessor was lost too.
    """
    return (APART if burst_ratio >= MIN_BURST_RATIO else NEAREST)[:redundant_blocks]


class SendAdaptation:
    """Chooses bitrate, FEC and redundancy by the losses that the caller reports. Call `report` for each report.

    `encoder` is None if the backend's Opus passes through. Then only the redundancy is chosen.
    """

    def __init__(self, codec: Codec, encoder: OpusEncoder | None) -> None:
        self.redundancy_offsets: tuple[int, ...] = ()
        """Redundancy offsets of each packet, in packets, nearest first."""
        self._encoder = encoder
        self._percent = 0
        self._level = LOSS_LEVELS[0]
        self._repeats = codec.redundancy is not None
        self._uses_fec = codec.parameters.get("useinbandfec") == "1"
        self._ceiling = _ceiling(codec)
        if encoder is not None:
            encoder.set_loss(0, fec=False)
            encoder.set_bitrate(min(BITRATE, self._ceiling))

    def report(self, percent: int, burst_ratio: float = 0.0) -> None:
        """Adapt to a report. Redundancy rises at once and falls over a few reports.

        `percent` is the loss since the report before, 0 to 100; `burst_ratio` is that of recent losses, 0 to 1.
        """
        percent = max(percent, self._percent // 2)
        changed, self._percent = percent != self._percent, percent
        self._level = next(level for level in reversed(LOSS_LEVELS) if percent >= self._threshold(level))
        self.redundancy_offsets = choose_redundancy_offsets(
            self._level.redundant_blocks if self._repeats else 0, burst_ratio
        )
        if changed and self._encoder is not None:
            # RED recovers more than in-band FEC, and at its bitrates FEC would cost the upper half of the spectrum.
            fec = self._uses_fec and percent > 0 and not self.redundancy_offsets
            self._encoder.set_loss(min(percent, MOST_FEC_PERCENT), fec=fec)
            bitrate = self._level.redundant_bitrate if self._repeats else self._level.single_bitrate
            self._encoder.set_bitrate(min(bitrate, self._ceiling))

    def _threshold(self, level: LossLevel) -> float:
        """Return the percentage of losses from which `level` applies: half of its own once it was reached."""
        return level.percent / 2 if level.percent <= self._level.percent else level.percent


def _ceiling(codec: Codec) -> int:
    """Return the highest bitrate that the caller accepts: its `maxaveragebitrate` (RFC 7587 §6.1)."""
    given = codec.parameters.get("maxaveragebitrate", "")
    return max(int(given), LOWEST_BITRATE) if given.isdecimal() and len(given) < 10 else BITRATE
