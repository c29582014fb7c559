"""The RTP packet (RFC 3550 §5.1)."""

import struct
from typing import NamedTuple

from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_transceiver.rtp.extensions import decode_extensions

HEADER_SIZE = 12
_HEADER = struct.Struct("!BBHII")
_EXTENSION_HEADER = struct.Struct("!HH")
_NO_PADDING_EXTENSION_CSRC = 0x80
_PADDING = 0x20
_EXTENSION = 0x10
_EXTENSION_ONLY = _NO_PADDING_EXTENSION_CSRC | _EXTENSION
"""First byte of a packet without padding and CSRCs, but with an extension: nearly every packet of browsers."""


class RtpPacket(NamedTuple):
    """One RTP packet. `decode_rtp` returns it; `encode` inverts that.

    `timestamp` is in ticks of the payload type's clock. `payload` does not contain the padding.
    """

    marker: bool
    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes
    csrcs: tuple[int, ...] = ()
    extension_profile: int | None = None
    extension_data: bytes = b""
    padding: int = 0
    """Bytes of padding, including the byte with their number."""

    @property
    def extensions(self) -> dict[int, bytes]:
        """The header extensions by id (RFC 8285), decoded at each access. Raises DecodeError if they are malformed."""
        return {} if self.extension_profile is None else decode_extensions(self.extension_profile, self.extension_data)

    def encode(self) -> bytes:
        """Invert `decode_rtp`. Raises LocalProtocolError when `extension_data` does not fill whole words."""
        first = _NO_PADDING_EXTENSION_CSRC | len(self.csrcs)
        extension = b""
        if self.extension_profile is not None:
            words, rest = divmod(len(self.extension_data), 4)
            if rest:
                raise LocalProtocolError("an RTP header extension fills whole words")
            first |= _EXTENSION
            extension = _EXTENSION_HEADER.pack(self.extension_profile, words) + self.extension_data
        padding = b""
        if self.padding:
            first |= _PADDING
            padding = bytes(self.padding - 1) + bytes((self.padding,))
        second = self.marker << 7 | self.payload_type
        header = _HEADER.pack(first, second, self.sequence, self.timestamp, self.ssrc)
        csrcs = struct.pack(f"!{len(self.csrcs)}I", *self.csrcs)
        return header + csrcs + extension + self.payload + padding


def decode_rtp(data: bytes) -> RtpPacket:
    """Decode a packet. Raises DecodeError when it is malformed (RFC 3550 §5.1)."""
    if len(data) < HEADER_SIZE:
        raise DecodeError("RTP packet is too short")
    first, second, sequence, timestamp, ssrc = _HEADER.unpack_from(data)
    if first == _NO_PADDING_EXTENSION_CSRC:
        return RtpPacket(second >= 128, second & 127, sequence, timestamp, ssrc, data[HEADER_SIZE:])
    if first == _EXTENSION_ONLY and len(data) >= HEADER_SIZE + 4:
        profile, words = _EXTENSION_HEADER.unpack_from(data, HEADER_SIZE)
        stop = HEADER_SIZE + 4 + 4 * words
        if stop > len(data):
            raise DecodeError("RTP header extension is cut short")
        extension = data[HEADER_SIZE + 4 : stop]
        return RtpPacket(second >= 128, second & 127, sequence, timestamp, ssrc, data[stop:], (), profile, extension)
    return _decode_any(data)


def _decode_any(data: bytes) -> RtpPacket:
    first, second, sequence, timestamp, ssrc = _HEADER.unpack_from(data)
    if first & 0xC0 != 0x80:
        raise DecodeError("RTP version is not 2")

    position, end = HEADER_SIZE + 4 * (first & 0x0F), len(data)
    if position > end:
        raise DecodeError("RTP contributing sources are cut short")
    csrcs = struct.unpack_from(f"!{first & 0x0F}I", data, HEADER_SIZE)
    profile, extension = None, b""
    if first & _EXTENSION:
        if position + 4 > end:
            raise DecodeError("RTP header extension is cut short")
        profile, words = _EXTENSION_HEADER.unpack_from(data, position)
        start, position = position + 4, position + 4 + 4 * words
        if position > end:
            raise DecodeError("RTP header extension is cut short")
        extension = data[start:position]
    padding = 0
    if first & _PADDING:
        padding = data[-1]
        if not 0 < padding <= end - position:
            raise DecodeError("RTP padding is longer than the payload")
    payload = data[position : end - padding]
    return RtpPacket(
        second >= 128, second & 127, sequence, timestamp, ssrc, payload, csrcs, profile, extension, padding
    )
