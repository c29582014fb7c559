"""The audio formats between a transceiver and a backend, and the duration of audio in each of them."""

from typing import NamedTuple, Self

from antiphon_common.errors import DecodeError

TICKS_PER_MS = 48
"""Ticks in a millisecond. Durations are in ticks of 48 kHz, which are integers for Opus and for every PCM rate."""

FRAME_MS = 20
"""Duration of a frame of audio that we make: 20 ms, as Opus has over WebRTC."""

MAX_PACKET_TICKS = 120 * TICKS_PER_MS
"""Duration of the longest Opus packet (RFC 6716 §3.2.5, R5)."""

MAX_PACKET_BYTES = 1275
"""Size of the longest Opus frame (RFC 6716 §3.2.1). No browser sends a longer packet. With all headers it fits in a
datagram."""

_SILK_TICKS = (480, 960, 1920, 2880)
_HYBRID_TICKS = (480, 960)
_CELT_TICKS = (120, 240, 480, 960)
_TICKS_BY_CONFIG = _SILK_TICKS * 3 + _HYBRID_TICKS * 2 + _CELT_TICKS * 4
"""Duration of one Opus frame by the five high bits of the packet's first byte (RFC 6716 §3.1, table 2)."""


class AudioFormat(NamedTuple):
    """An audio format: `pcm16/RATE` (16-bit little-endian mono), or `opus` (one packet in each frame, 48 kHz).

    `parse` makes it from a name in `FORMATS`. `rate` is in Hz.
    """

    name: str
    rate: int

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read a format's name. Raises ValueError for one that is not among `FORMATS`."""
        if name not in FORMATS:
            raise ValueError(f"no audio format {name!r}; there are {', '.join(FORMATS)}")
        return cls(name, int(name.rpartition("/")[2]) if name != "opus" else 48000)

    @property
    def frame_bytes(self) -> int:
        """Bytes of a PCM frame of `FRAME_MS`; 0 for Opus, whose packets vary in size."""
        return 0 if self.name == "opus" else self.rate * FRAME_MS // 1000 * 2

    def duration(self, data: bytes) -> int:
        """Return the duration of `data` in ticks. Raises DecodeError unless it is whole samples or one Opus packet."""
        if self.name == "opus":
            return opus_duration(data)
        samples, half = divmod(len(data), 2)
        if half or not samples:
            raise DecodeError(f"{len(data)} bytes are no whole number of 16-bit samples")
        return samples * (48000 // self.rate)


FORMATS = ("pcm16/16000", "pcm16/24000", "pcm16/48000", "opus")


def opus_duration(packet: bytes) -> int:
    """Return the duration of an Opus packet in ticks of 48 kHz (RFC 6716 §3.1, §3.2).

    Raises DecodeError when the packet is malformed.
    """
    if not packet:
        raise DecodeError("an empty Opus packet")
    toc = packet[0]
    code = toc & 3
    if code == 3 and len(packet) < 2:
        raise DecodeError("an Opus packet of code 3 without a frame count")
    count = packet[1] & 63 if code == 3 else (code + 3) // 2
    ticks = _TICKS_BY_CONFIG[toc >> 3] * count
    if not 0 < ticks <= MAX_PACKET_TICKS:
        raise DecodeError(f"an Opus packet of {count} frames")
    return ticks
