"""Numbers the packets of one outgoing stream."""

import struct
from collections.abc import Callable, Mapping
from typing import Self

from antiphon_transceiver.rtp.extensions import encode_extensions

_HEADER = struct.Struct("!BBHII")


class RtpSender:
    """One source (SSRC) of one payload type.

    The first packet is numbered by the low 15 bits of `sequence`: a receiver that misses the first packets could
    mistake the rollover counter of a stream that begins just before a wrap (RFC 3711 §3.3.1). `timestamp` is added to
    those given to `packet`, and `extensions` go into every packet.
    """

    __slots__ = ("_extension", "_first", "_payload_type", "_timestamp", "sequence", "ssrc")

    def __init__(
        self,
        ssrc: int,
        payload_type: int,
        sequence: int,
        *,
        timestamp: int = 0,
        extensions: Mapping[int, bytes] | None = None,
    ) -> None:
        self.ssrc = ssrc
        self.sequence = sequence & 0x7FFF
        """What the next packet is numbered."""
        self._payload_type = payload_type
        self._timestamp = timestamp
        self._first, self._extension = 0x80, b""
        if extensions:
            profile, data = encode_extensions(extensions)
            self._first, self._extension = 0x90, struct.pack("!HH", profile, len(data) // 4) + data

    @classmethod
    def start(
        cls, payload_type: int, random: Callable[[int], bytes], *, extensions: Mapping[int, bytes] | None = None
    ) -> Self:
        """Start at random numbers, as RFC 3550 §5.1 asks; `random` returns that many random bytes."""
        ssrc, timestamp, sequence = struct.unpack("!IIH", random(10))
        return cls(ssrc, payload_type, sequence, timestamp=timestamp, extensions=extensions)

    def packet(self, payload: bytes, timestamp: int, marker: bool = False) -> bytes:
        """Return the next packet; `timestamp` is in ticks since the stream began and may exceed 32 bits."""
        sequence = self.sequence
        self.sequence = sequence + 1 & 0xFFFF
        second = self._payload_type | 0x80 if marker else self._payload_type
        header = _HEADER.pack(self._first, second, sequence, self.rtp_timestamp(timestamp), self.ssrc)
        return header + self._extension + payload

    def rtp_timestamp(self, timestamp: int) -> int:
        """Return `timestamp` as it travels; a sender report must tell the same."""
        return self._timestamp + timestamp & 0xFFFFFFFF
