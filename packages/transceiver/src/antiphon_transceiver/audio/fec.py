"""Which Opus packets repeat the one before them: in-band FEC, seen without decoding."""

from typing import Final

from antiphon_common.formats import opus_duration

_FIRST_CELT_CONFIG: Final = 16


def frame_duration(packet: bytes) -> int:
    """Return how long each frame of `packet`, which is not empty, lasts in 48 kHz ticks (RFC 6716 §3.1)."""
    return opus_duration(bytes((packet[0] & 0xFC,)))


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
