"""Numbers the packets of one outgoing stream."""

import struct
from collections.abc import Callable
from typing import Self

_HEADER = struct.Struct("!BBHII")


class RtpSender:
    """One source (SSRC) of one payload type.

    The first packet is numbered by the low 15 bits of `sequence`: a receiver that misses the first packets could
    mistake the rollover counter of a stream that begins just before a wrap (RFC 3711 §3.3.1). `timestamp` is added to
    those given to `packet`.
    """

    __slots__ = ("_timestamp", "payload_type", "sequence", "ssrc")

    def __init__(self, ssrc: int, payload_type: int, sequence: int, *, timestamp: int = 0) -> None:
        self.ssrc = ssrc
        self.sequence = sequence & 0x7FFF
        """What the next packet is numbered."""
        self.payload_type = payload_type
        """That of the next packet; it may change within a stream (RFC 3550 §5.1)."""
        self._timestamp = timestamp

    @classmethod
    def start(cls, payload_type: int, random: Callable[[int], bytes]) -> Self:
        """Start at random numbers, as RFC 3550 §5.1 asks; `random` returns that many random bytes."""
        ssrc, timestamp, sequence = struct.unpack("!IIH", random(10))
        return cls(ssrc, payload_type, sequence, timestamp=timestamp)

    def packet(self, payload: bytes, timestamp: int, marker: bool = False, extension: bytes = b"") -> bytes:
        """Return the next packet; `timestamp` is in ticks since the stream began and may exceed 32 bits, `extension`
        is a header extension with its own header."""
        sequence = self.sequence
        self.sequence = sequence + 1 & 0xFFFF
        second = self.payload_type | 0x80 if marker else self.payload_type
        header = _HEADER.pack(0x90 if extension else 0x80, second, sequence, self.rtp_timestamp(timestamp), self.ssrc)
        return header + extension + payload

    def rtp_timestamp(self, timestamp: int) -> int:
        """Return `timestamp` as it travels; a sender report must tell the same."""
        return self._timestamp + timestamp & 0xFFFFFFFF
