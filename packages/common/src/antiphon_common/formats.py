"""The audio formats between a transceiver and a backend, and how long a piece of audio in one of them lasts."""

from typing import NamedTuple, Self

from antiphon_common.errors import DecodeError

TICKS_PER_MS = 48
"""Durations are counted in ticks of 48 kHz: whole numbers for Opus and for every PCM rate."""

FRAME_MS = 20
"""How audio is cut by those who may choose: the frame of Opus over WebRTC."""

MAX_PACKET_TICKS = 120 * TICKS_PER_MS
"""The longest Opus packet (RFC 6716 §3.2.5, R5)."""

MAX_PACKET_BYTES = 1275
"""The longest Opus frame (RFC 6716 §3.2.1), and so a packet of one frame. With the headers around it, it still fits a
datagram; no browser sends a longer one."""

_SILK_TICKS = (480, 960, 1920, 2880)
_HYBRID_TICKS = (480, 960)
_CELT_TICKS = (120, 240, 480, 960)
_TICKS_BY_CONFIG = _SILK_TICKS * 3 + _HYBRID_TICKS * 2 + _CELT_TICKS * 4
"""Duration of one Opus frame by the five high bits of the packet's first byte (RFC 6716 §3.1, table 2)."""


class AudioFormat(NamedTuple):
    """`pcm16/RATE` (16-bit little-endian mono) or `opus` (one packet each, its clock always 48 kHz)."""

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
        """Bytes of a PCM frame of `FRAME_MS`; 0 for Opus, whose packets vary."""
        return 0 if self.name == "opus" else self.rate * FRAME_MS // 1000 * 2

    def duration(self, data: bytes) -> int:
        """Return the ticks that `data` lasts. Raises DecodeError unless it is whole samples, or one Opus packet."""
        if self.name == "opus":
            return opus_duration(data)
        samples, half = divmod(len(data), 2)
        if half or not samples:
            raise DecodeError(f"{len(data)} bytes are no whole number of 16-bit samples")
        return samples * (48000 // self.rate)


FORMATS = ("pcm16/16000", "pcm16/24000", "pcm16/48000", "opus")


def opus_duration(packet: bytes) -> int:
    """Return the duration of an Opus packet in ticks of 48 kHz (RFC 6716 §3.1, §3.2). Raises DecodeError."""
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
