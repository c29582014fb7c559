"""What the first bytes of an Opus packet tell without decoding it (RFC 6716 §3.1)."""

from typing import Final

from antiphon_common.errors import DecodeError

TICKS_PER_SECOND: Final = 48_000
"""The RTP clock of Opus, whatever the audio's own rate (RFC 7587 §4.1)."""

MAX_PACKET_TICKS: Final = 5_760
"""120 ms, the longest packet there is (RFC 6716 §3.2.5 R5)."""

_SILK, _HYBRID, _CELT = (480, 960, 1920, 2880), (480, 960), (120, 240, 480, 960)
_FRAME_TICKS = _SILK * 3 + _HYBRID * 2 + _CELT * 4
_FIRST_CELT_CONFIG = 16
_ARBITRARY_COUNT = 3


def _constant_duration(toc: int) -> int:
    """Ticks of a packet as far as its first byte says; 0 where the frame count is in the second (code 3)."""
    return (1, 2, 2, 0)[toc & 3] * _FRAME_TICKS[toc >> 3]


_PACKET_TICKS = tuple(_constant_duration(toc) for toc in range(256))


def packet_duration(packet: bytes) -> int:
    """Return how long `packet` lasts in 48 kHz ticks; raise DecodeError when it cannot be Opus."""
    if not packet:
        raise DecodeError("an empty Opus packet")
    ticks = _PACKET_TICKS[packet[0]]
    return ticks or _counted_duration(packet)


def frame_duration(packet: bytes) -> int:
    """Return how long each frame of `packet`, which is not empty, lasts in 48 kHz ticks."""
    return _FRAME_TICKS[packet[0] >> 3]


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


def _counted_duration(packet: bytes) -> int:
    if len(packet) < 2:
        raise DecodeError("an Opus packet ends before its frame count")
    ticks = (packet[1] & 0x3F) * _FRAME_TICKS[packet[0] >> 3]
    if not 0 < ticks <= MAX_PACKET_TICKS:
        raise DecodeError(f"an Opus packet of {ticks / 48:g} ms")
    return ticks


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
