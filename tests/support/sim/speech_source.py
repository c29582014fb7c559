"""Packets that pass for Opus and say whose they are and which."""

FRAME_SECONDS, FRAME_TICKS = 0.02, 960

UP, DOWN = 0, 1 << 31
"""Who speaks: beside the caller's number in a packet."""

_CELT_FULLBAND_20_MS = bytes((31 << 3,))
_SIZE = 80


def opus_packet(number: int, speaker: int = UP) -> bytes:
    """Return bytes that pass for 20 ms of Opus (CELT, fullband, one frame) and carry a number and a speaker."""
    marks = number.to_bytes(4, "big") + speaker.to_bytes(4, "big")
    return _CELT_FULLBAND_20_MS + marks * (_SIZE // len(marks))


def read_packet(packet: bytes) -> tuple[int, int] | None:
    """Invert `opus_packet`; None for what it never made."""
    number, speaker = int.from_bytes(packet[1:5], "big"), int.from_bytes(packet[5:9], "big")
    return (number, speaker) if packet == opus_packet(number, speaker) else None
