"""Numbers the packets of one outgoing stream."""

import struct
from collections.abc import Mapping

from antiphon_transceiver.rtp.extensions import encode_extensions

_HEADER = struct.Struct("!BBHII")


class RtpSender:
    """One source (SSRC) of one payload type.

    The first packet is numbered by the low 15 bits of `sequence`, which should be random: a receiver that misses the
    first packets could mistake the rollover counter of a stream that begins just before a wrap (RFC 3711 §3.3.1).
    `extensions` go into every packet.
    """

    __slots__ = ("_extension", "_first", "_payload_type", "sequence", "ssrc")

    def __init__(
        self, ssrc: int, payload_type: int, sequence: int, *, extensions: Mapping[int, bytes] | None = None
    ) -> None:
        self.ssrc = ssrc
        self.sequence = sequence & 0x7FFF
        """What the next packet is numbered."""
        self._payload_type = payload_type
        self._first, self._extension = 0x80, b""
        if extensions:
            profile, data = encode_extensions(extensions)
            self._first, self._extension = 0x90, struct.pack("!HH", profile, len(data) // 4) + data

    def packet(self, payload: bytes, timestamp: int, marker: bool = False) -> bytes:
        """Return the next packet; `timestamp` is in ticks, and only its low 32 bits travel."""
        sequence = self.sequence
        self.sequence = sequence + 1 & 0xFFFF
        second = self._payload_type | 0x80 if marker else self._payload_type
        header = _HEADER.pack(self._first, second, sequence, timestamp & 0xFFFFFFFF, self.ssrc)
        return header + self._extension + payload
