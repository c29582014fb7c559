"""A browser or a transceiver that speaks, as far as its packets go, and the network between it and a receiver."""

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
"""Found in the repository, so that the package need not be installed."""

RATE = 48_000
FRAME_SECONDS = 0.02
TICKS = 960

BITRATE = 32_000
OWN_RATE = 24_000
"""What most backends speak."""

COMPLEXITY = 9
"""What Chromium gives a microphone on a desktop."""

DELAY, JITTER = 0.03, 0.01
"""Seconds of the network: no packet overtakes another."""

BURST_LENGTH = 3.0
"""Mean of packets lost in a row."""

TOLERANCE = 0.005
"""How far the losses of a network may be from the mean of its kind, as a share of all packets."""


class Condition(NamedTuple):
    """Losses of the mean `loss`, each for itself or in bursts."""

    loss: float
    bursts: bool = False

    def __str__(self) -> str:
        return f"{self.loss:.0%} {'bursts' if self.bursts else 'random'}" if self.loss else "clean"

    @property
    def in_runs(self) -> float:
        """The share of lost packets right before which another is lost."""
        return 1 - 1 / BURST_LENGTH if self.bursts else self.loss

    @property
    def impairment(self) -> Impairment:
        if self.bursts:
            return Impairment(bursts=Bursts.of_mean(self.loss, BURST_LENGTH), delay=DELAY, jitter=JITTER)
        return Impairment(loss=self.loss, delay=DELAY, jitter=JITTER)


class Arrival(NamedTuple):
    """Packet number `packet` of the stream comes at `time`; it was ready at `packet` times 20 ms."""

    time: float
    packet: int


def load_speech() -> Samples:
    """Return what is said, at `RATE`."""
    with wave.open(str(SPEECH)) as recording:
        pcm = np.frombuffer(recording.readframes(recording.getnframes()), "<i2")
        return resample((pcm / 32768).astype(np.float32), recording.getframerate(), RATE)


def encode(speech: Samples, loss: float) -> list[bytes]:
    """Return the Opus packets of a browser that RTCP has told of this loss: with it they carry in-band FEC."""
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
    """Return the Opus packets of a transceiver whose caller takes RED and has told it of these losses, and how many
    packets before it those are that each is sent with once more."""
    encoder = OpusEncoder(OWN_RATE)
    adaptation = SendAdaptation(Codec("opus", 111, RATE, parameters={"useinbandfec": "1"}, redundancy=63), encoder)
    adaptation.report(round(condition.loss * 100), condition.in_runs)
    pcm = (np.clip(resample(speech, RATE, OWN_RATE), -1, 1) * 32767).astype("<i2").tobytes()
    starts = range(0, len(pcm) - encoder.frame_size + 1, encoder.frame_size)
    return [encoder.encode(pcm[start : start + encoder.frame_size]) for start in starts], adaptation.distances


def carry(packets: Sequence[bytes], condition: Condition, seed: int) -> list[Arrival]:
    """Return which packets arrive, and when. What RED adds to them does not change that.

    In so short a time few bursts come, or many: networks are drawn until one loses what it should.
    """
    random = Random(seed)
    while True:
        link = ImpairedLink(condition.impairment, random)
        sent = [(index, link.arrivals(len(packet), index * FRAME_SECONDS)) for index, packet in enumerate(packets)]
        if abs(link.lost / len(packets) - condition.loss) <= TOLERANCE:
            return sorted(Arrival(time, index) for index, times in sent for time in times)
