"""Properties of packets that a jitter buffer reads without decoding: the duration, and whether one contains FEC."""

from collections.abc import Callable
from typing import Final, NamedTuple

from antiphon_common.errors import DecodeError
from antiphon_common.formats import MAX_PACKET_TICKS, opus_duration

_FIRST_CELT_CONFIG: Final = 16
_G711_TICKS: Final = 6
"""Ticks of 48 kHz in one sample of 8 kHz."""


class PayloadKind(NamedTuple):
    """The packets of one codec, for a `JitterBuffer`; `OPUS` and `G711` are the two. Times are in ticks of 48 kHz."""

    clock_ticks: int
    """Length of one tick of the RTP clock."""
    unit: int
    """Concealed frames last a multiple of this."""
    duration: Callable[[bytes], int]
    """Returns the duration of a packet. Raises DecodeError for a malformed one."""
    repeats: Callable[[bytes], int]
    """Returns the duration of the audio before a packet that it contains as in-band FEC."""


def frame_duration(packet: bytes) -> int:
    """Return the duration of each frame in `packet`, which is not empty, in ticks of 48 kHz (RFC 6716 §3.1)."""
    return opus_duration(bytes((packet[0] & 0xFC,)))


def g711_duration(packet: bytes) -> int:
    """Return the duration of a G.711 packet in ticks of 48 kHz. Raises DecodeError when it is empty or too long."""
    ticks = len(packet) * _G711_TICKS
    if not 0 < ticks <= MAX_PACKET_TICKS:
        raise DecodeError(f"a G.711 packet of {len(packet)} samples")
    return ticks


def carries_fec(packet: bytes) -> bool:
    """Return True if `packet` contains the packet before it as LBRR frames (RFC 6716 §4.2.4)."""
    start = _first_frame(packet)
    if start is None or start >= len(packet) or packet[0] >> 3 >= _FIRST_CELT_CONFIG:
        return False
    # A SILK frame begins, for each channel, with a voice activity bit for each 20 ms and the LBRR flag.
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
    """Return where the data of the first frame begins, or None for a malformed packet (RFC 6716 §3.2)."""
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
