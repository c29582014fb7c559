"""Opus packets of valid form that carry a number and a speaker in place of audio."""

FRAME_SECONDS, FRAME_TICKS = 0.02, 960

UP, DOWN = 0, 1 << 31
"""The direction, which is added to the caller's number in a packet."""

_CELT_FULLBAND_20_MS = bytes((31 << 3,))
_SIZE = 80


def opus_packet(number: int, speaker: int = UP) -> bytes:
    """Return a valid Opus packet of 20 ms (CELT, fullband, one frame) that carries a number and a speaker."""
    marks = number.to_bytes(4, "big") + speaker.to_bytes(4, "big")
    return _CELT_FULLBAND_20_MS + marks * (_SIZE // len(marks))


def read_packet(packet: bytes) -> tuple[int, int] | None:
    """Return number and speaker of a packet of `opus_packet`, or None for any other packet."""
    number, speaker = int.from_bytes(packet[1:5], "big"), int.from_bytes(packet[5:9], "big")
    return (number, speaker) if packet == opus_packet(number, speaker) else None
