"""What a jitter buffer has to know of a codec's packets: how long each lasts, and whether it repeats the one before,
seen without decoding."""

from collections.abc import Callable
from typing import Final, NamedTuple

from antiphon_common.errors import DecodeError
from antiphon_common.formats import MAX_PACKET_TICKS, opus_duration

_FIRST_CELT_CONFIG: Final = 16
_G711_TICKS: Final = 6
"""Ticks of 48 kHz in a sample of 8 kHz."""


class PayloadKind(NamedTuple):
    """The packets of one codec; times are ticks of 48 kHz. `duration` raises DecodeError for what is no packet."""

    clock_ticks: int
    """How many make one tick of the RTP clock."""
    unit: int
    """A concealed stretch lasts a whole number of these."""
    duration: Callable[[bytes], int]
    repeats: Callable[[bytes], int]
    """How much of what came before a packet it holds as in-band FEC."""


def frame_duration(packet: bytes) -> int:
    """Return how long each frame of `packet`, which is not empty, lasts in 48 kHz ticks (RFC 6716 §3.1)."""
    return opus_duration(bytes((packet[0] & 0xFC,)))


def g711_duration(packet: bytes) -> int:
    """Return how long a packet of one byte a sample lasts; raise DecodeError."""
    ticks = len(packet) * _G711_TICKS
    if not 0 < ticks <= MAX_PACKET_TICKS:
        raise DecodeError(f"a G.711 packet of {len(packet)} samples")
    return ticks


def carries_fec(packet: bytes) -> bool:
    """Tell whether `packet` repeats the one before it (LBRR frames, RFC 6716 §4.2.4)."""
    start = _first_frame(packet)
    if start is None or start >= len(packet) or packet[0] >> 3 >= _FIRST_CELT_CONFIG:
        return False
    # A SILK frame opens with one bit of voice activity for each 20 ms and then the LBRR flag, for each channel.
    silk_frames = max(1, frame_duration(packet) // 960)
    flags = packet[start]
    if flags >> (7 - silk_frames) & 1:
        return True
    stereo = packet[0] >> 2 & 1
    return bool(stereo and flags >> max(0, 6 - 2 * silk_frames) & 1)


def _fec_duration(packet: bytes) -> int:
    return frame_duration(packet) if carries_fec(packet) else 0


def _nothing(_: bytes) -> int:
    return 0


OPUS: Final = PayloadKind(1, 120, opus_duration, _fec_duration)
G711: Final = PayloadKind(_G711_TICKS, _G711_TICKS, g711_duration, _nothing)


def _first_frame(packet: bytes) -> int | None:
    """Where the data of the first frame begins, None where that cannot be (RFC 6716 §3.2)."""
    code = packet[0] & 3 if packet else 0
    if code < 2:
        return 1
    if code == 2:
        return _after_length(packet, 1)
    if len(packet) < 2:
        return None
    variable, padded, count = packet[1] & 0x80, packet[1] & 0x40, packet[1] & 0x3F
    start = 2
    while padded and start < len(packet):
        start += 1
        if packet[start - 1] != 255:
            break
    for _ in range(count - 1 if variable else 0):
        start = _after_length(packet, start)
    return start


def _after_length(packet: bytes, start: int) -> int:
    """Skip one frame length, of one byte or two (RFC 6716 §3.2.1)."""
    return start + (2 if start < len(packet) and packet[start] >= 252 else 1)
