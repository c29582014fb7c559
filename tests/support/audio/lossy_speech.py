"""The speech packets of a browser or a transceiver, and the lossy network between it and a receiver."""

import wave
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from av import AudioFrame, CodecContext

from antiphon_common.control import Codec
from antiphon_transceiver.audio import OpusEncoder, SendAdaptation
from support.audio.correlation import resample
from support.net.impairment import Bursts, ImpairedLink, Impairment

Samples = npt.NDArray[np.float32]

SPEECH = Path(__file__).parents[3] / "packages/antiphon/src/antiphon/client/speech.wav"
"""Read from the repository, so that the package need not be installed."""

RATE = 48_000
FRAME_SECONDS = 0.02
TICKS = 960

BITRATE = 32_000
OWN_RATE = 24_000
"""Sampling rate of most backends in Hz."""

COMPLEXITY = 9
"""Opus complexity that Chromium uses on a desktop."""

DELAY, JITTER = 0.03, 0.01
"""Delay and jitter of the network in seconds. It does not reorder packets."""

BURST_LENGTH = 3.0
"""Mean number of consecutive packets lost."""

TOLERANCE = 0.005
"""Largest deviation of a network's losses from their mean, as a share of all packets."""


class Condition(NamedTuple):
    """Losses with the mean `loss`, independent or in bursts."""

    loss: float
    bursts: bool = False

    def __str__(self) -> str:
        return f"{self.loss:.0%} {'bursts' if self.bursts else 'random'}" if self.loss else "clean"

    @property
    def burst_ratio(self) -> float:
        """The share of lost packets right before which another is lost."""
        return 1 - 1 / BURST_LENGTH if self.bursts else self.loss

    @property
    def impairment(self) -> Impairment:
        if self.bursts:
            return Impairment(bursts=Bursts.of_mean(self.loss, BURST_LENGTH), delay=DELAY, jitter=JITTER)
        return Impairment(loss=self.loss, delay=DELAY, jitter=JITTER)


class Arrival(NamedTuple):
    """The arrival of packet number `packet` at `time`. It was captured at `packet` times 20 ms."""

    time: float
    packet: int


def load_speech() -> Samples:
    """Return the known speech at `RATE`."""
    with wave.open(str(SPEECH)) as recording:
        pcm = np.frombuffer(recording.readframes(recording.getnframes()), "<i2")
        return resample((pcm / 32768).astype(np.float32), recording.getframerate(), RATE)


def encode(speech: Samples, loss: float) -> list[bytes]:
    """Return the Opus packets of a browser to which RTCP reported this loss: they carry in-band FEC."""
    encoder = CodecContext.create("libopus", "w")
    encoder.bit_rate, encoder.sample_rate, encoder.layout, encoder.format = BITRATE, RATE, "mono", "s16"
    encoder.options = {
        "application": "voip",
        "compression_level": str(COMPLEXITY),
        "fec": "1",
        "packet_loss": str(round(loss * 100)),
    }
    pcm = (speech * 32767).astype("<i2")
    packets: list[bytes] = []
    for start in range(0, len(pcm) - TICKS + 1, TICKS):
        frame = AudioFrame.from_ndarray(pcm[None, start : start + TICKS], format="s16", layout="mono")
        frame.sample_rate = RATE
        packets += map(bytes, encoder.encode(frame))
    return packets


def encode_as_we_do(speech: Samples, condition: Condition) -> tuple[list[bytes], tuple[int, ...]]:
    """Return the Opus packets of a transceiver whose caller accepts RED and reported these losses, and the redundancy
    offsets of its packets (RFC 2198)."""
    encoder = OpusEncoder(OWN_RATE)
    adaptation = SendAdaptation(Codec("opus", 111, RATE, parameters={"useinbandfec": "1"}, redundancy=63), encoder)
    adaptation.report(round(condition.loss * 100), condition.burst_ratio)
    pcm = (np.clip(resample(speech, RATE, OWN_RATE), -1, 1) * 32767).astype("<i2").tobytes()
    starts = range(0, len(pcm) - encoder.frame_size + 1, encoder.frame_size)
    return [encoder.encode(pcm[start : start + encoder.frame_size]) for start in starts], adaptation.redundancy_offsets


def carry(packets: Sequence[bytes], condition: Condition, seed: int) -> list[Arrival]:
    """Return the arrivals of the packets, regardless of RED.

    The number of bursts in a short time varies, so networks are drawn until one has the required losses.
    """
    random = Random(seed)
    while True:
        link = ImpairedLink(condition.impairment, random)
        sent = [(index, link.arrivals(len(packet), index * FRAME_SECONDS)) for index, packet in enumerate(packets)]
        if abs(link.lost / len(packets) - condition.loss) <= TOLERANCE:
            return sorted(Arrival(time, index) for index, times in sent for time in times)
