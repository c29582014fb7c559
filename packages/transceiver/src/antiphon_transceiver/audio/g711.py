"""G.711, the codec of telephones (RFC 3551 §4.5.14), for callers without Opus: one byte for each sample of 8 kHz."""

from array import array
from functools import cache
from typing import Final

from antiphon_common.errors import DecodeError
from antiphon_common.formats import FRAME_MS
from antiphon_transceiver.audio.opus import OpusDecoder
from antiphon_transceiver.audio.payloads import g711_duration
from antiphon_transceiver.audio.resample import Resampler

RATE: Final = 8_000

FADE: Final = (1.0, 0.7, 0.4, 0.1)
"""Loudness of the last frame in each of the frames that conceal a loss. Silence follows them."""

_SAMPLES: Final = RATE * FRAME_MS // 1000
_MU_BIAS, _MU_CLIP = 0x84, 32_635


class G711Decoder:
    """Decodes the packets of one stream to mono PCM at `sample_rate`: 8, 16, 24 or 48 kHz.

    Call `decode` for each packet, and `conceal` for each loss. `codec` is `pcmu` or `pcma`.
    """

    def __init__(self, codec: str, sample_rate: int) -> None:
        self._low, self._high, _ = _tables(codec)
        self._resampler = Resampler(RATE, sample_rate)
        self._ratio = sample_rate // RATE
        self._last = bytes(2 * _SAMPLES)
        self._concealed = 0

    def decode(self, packet: bytes) -> bytes:
        """Return the PCM of `packet`. Raises DecodeError when it is empty or too long."""
        g711_duration(packet)
        pcm = bytearray(2 * len(packet))
        pcm[0::2] = packet.translate(self._low)
        pcm[1::2] = packet.translate(self._high)
        self._last = (self._last + pcm)[-2 * _SAMPLES :]
        self._concealed = 0
        return self._resampler.resample(bytes(pcm))

    def recover(self, packet: bytes, samples: int) -> bytes:
        """Return `samples` that conceal a loss, since G.711 has no FEC."""
        return self.conceal(samples)

    def conceal(self, samples: int) -> bytes:
        """Return `samples` that repeat the last frame more quietly each time; they must be whole samples of 8 kHz."""
        place, end = self._concealed, self._concealed + samples // self._ratio
        self._concealed = end
        last = array("h", self._last)
        pcm = array("h")
        while place < end:
            frame, start = divmod(place, _SAMPLES)
            if frame >= len(FADE):
                pcm.frombytes(bytes(2 * (end - place)))
                break
            stretch, loudness = last[start : start + end - place], FADE[frame]
            pcm.extend([int(sample * loudness) for sample in stretch])
            place += len(stretch)
        return self._resampler.resample(pcm.tobytes())


class G711Encoder:
    """Encodes mono PCM at `sample_rate` (8, 16, 24 or 48 kHz). Call `encode` for each packet, in order.

    `codec` is `pcmu` or `pcma`.
    """

    def __init__(self, codec: str, sample_rate: int) -> None:
        self._codes = _tables(codec)[2]
        self._resampler = Resampler(sample_rate, RATE)

    def encode(self, pcm: bytes) -> bytes:
        """Return the packet of a piece of PCM, which lasts whole milliseconds."""
        return bytes(map(self._codes.__getitem__, array("H", self._resampler.resample(pcm))))


class OpusToG711:
    """Transcodes the Opus packets of a backend to G.711. Call `encode` for each packet, in order."""

    def __init__(self, codec: str) -> None:
        self._decoder = OpusDecoder(RATE)
        self._encoder = G711Encoder(codec, RATE)

    def encode(self, packet: bytes) -> bytes:
        """Return a G.711 packet of the same duration. A packet that cannot be decoded is concealed."""
        try:
            pcm = self._decoder.decode(packet)
        except DecodeError:
            pcm = self._decoder.conceal(_SAMPLES)
        return self._encoder.encode(pcm)


@cache
def _tables(codec: str) -> tuple[bytes, bytes, bytes]:
    """Return three tables: low byte and high byte of the sample of each code, and the code of each unsigned sample."""
    expand = {"pcmu": _expand_mu, "pcma": _expand_a}[codec]
    compress = {"pcmu": _compress_mu, "pcma": _compress_a}[codec]
    samples = [expand(code).to_bytes(2, "little", signed=True) for code in range(256)]
    positive = bytes(map(compress, range(1 << 15)))
    negative = bytes(map(compress, range(-1 << 15, 0)))
    return bytes(sample[0] for sample in samples), bytes(sample[1] for sample in samples), positive + negative


def _expand_mu(code: int) -> int:
    code = ~code
    magnitude = ((code & 0x0F) << 3) + _MU_BIAS << (code >> 4 & 7)
    return _MU_BIAS - magnitude if code & 0x80 else magnitude - _MU_BIAS


def _compress_mu(sample: int) -> int:
    magnitude = min(abs(sample), _MU_CLIP) + _MU_BIAS
    exponent = magnitude.bit_length() - 8
    code = exponent << 4 | magnitude >> exponent + 3 & 0x0F
    return ~(code | 0x80 if sample < 0 else code) & 0xFF


def _expand_a(code: int) -> int:
    code ^= 0x55
    exponent, mantissa = code >> 4 & 7, (code & 0x0F) << 4 | 8
    magnitude = (mantissa | 0x100) << exponent - 1 if exponent else mantissa
    return magnitude if code & 0x80 else -magnitude


def _compress_a(sample: int) -> int:
    magnitude = ~sample if sample < 0 else sample
    exponent = max(0, magnitude.bit_length() - 8)
    code = exponent << 4 | magnitude >> max(4, exponent + 3) & 0x0F
    return (code if sample < 0 else code | 0x80) ^ 0x55
