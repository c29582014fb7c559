"""The speech that test clients send: a recording that is encoded once for all calls."""

import wave
from collections import Counter
from importlib.resources import files
from typing import NamedTuple, Self

from antiphon_common.formats import FRAME_MS
from antiphon_transceiver.audio import OpusEncoder


class RecordedSpeech(NamedTuple):
    """Opus packets of 20 ms, which a call sends in a loop. `shipped` encodes those of the package's recording.

    `index_of` finds a packet that a server returns unchanged. Packets of silence occur more than once and are not in
    it.
    """

    packets: list[bytes]
    index_of: dict[bytes, int]

    @classmethod
    def encode(cls, pcm: bytes, sample_rate: int) -> Self:
        """Encode 16-bit mono PCM at `sample_rate` Hz. A rest of less than 20 ms is left out."""
        encoder = OpusEncoder(sample_rate)
        size = sample_rate * FRAME_MS // 1000 * 2
        packets = [encoder.encode(pcm[start : start + size]) for start in range(0, len(pcm) - size + 1, size)]
        copies = Counter(packets)
        return cls(packets, {packet: index for index, packet in enumerate(packets) if copies[packet] == 1})

    @classmethod
    def shipped(cls) -> Self:
        """Encode the recording that comes with the package."""
        with files("antiphon.client").joinpath("speech.wav").open("rb") as file, wave.open(file) as recording:
            return cls.encode(recording.readframes(recording.getnframes()), recording.getframerate())
