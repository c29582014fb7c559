"""Fast access to header extensions: the fields of each packet that we send, and one field of each that we receive.

The packets of a stream have the same layout. So both classes treat the extension as one integer and cache the layout.
"""

import struct
from collections.abc import Mapping
from typing import NamedTuple

from antiphon_common.errors import DecodeError
from antiphon_common.rtp_extensions import ABSOLUTE_SEND_TIME, MID, TRANSPORT_SEQUENCE
from antiphon_transceiver.rtp.extensions import ONE_BYTE_PROFILE, decode_extensions

MID_PACKETS = 100
"""Packets at the beginning of a stream that carry our mid: two seconds, in which some of them arrive."""

SEND_TIME_TICKS = 1 << 18
"""Ticks of abs-send-time in a second."""

_SEND_TIME_SIZE, _SEQUENCE_SIZE, _MAX_ONE_BYTE_SIZE = 3, 2, 16
_HEADER_SIZE = 4


class _Template(NamedTuple):
    """An encoded extension as an integer. A field is multiplied by its unit and added to `constant`.

    The unit of a field that is not negotiated is 0.
    """

    constant: int
    size: int
    send_time_unit: int
    sequence_unit: int

    def fill(self, send_time: int, sequence: int) -> bytes:
        """Return the extension with these fields."""
        number = self.constant + send_time * self.send_time_unit + sequence * self.sequence_unit
        return number.to_bytes(self.size, "big")


class ExtensionWriter:
    """Writes the extension of each packet of our stream. Call `write` once for each packet.

    It contains abs-send-time, the transport-wide sequence number and, at first, the mid. `ids` maps the URI of each
    negotiated extension to its id, 1 to 14.
    """

    __slots__ = ("_mid_left", "_plain", "_with_mid", "sequence")

    def __init__(self, ids: Mapping[str, int], mid: str) -> None:
        self.sequence = 0
        """The transport-wide sequence number of the next packet, 16 bits."""
        name = mid.encode()
        wanted = MID in ids and 0 < len(name) <= _MAX_ONE_BYTE_SIZE
        self._plain = _make_template(ids, b"")
        self._with_mid = _make_template(ids, name) if wanted else self._plain
        self._mid_left = MID_PACKETS if wanted else 0

    def write(self, now: float) -> bytes:
        """Return the extension of one packet with its header; empty if no extension was negotiated."""
        template = self._plain
        if not template.size and not self._mid_left:
            return b""
        if self._mid_left:
            self._mid_left -= 1
            template = self._with_mid
        sequence = self.sequence
        self.sequence = sequence + 1 & 0xFFFF
        return template.fill(int(now * SEND_TIME_TICKS) & 0xFFFFFF, sequence)


def _make_template(ids: Mapping[str, int], mid: bytes) -> _Template:
    elements, ends = b"", {}
    for uri, value in (
        (ABSOLUTE_SEND_TIME, bytes(_SEND_TIME_SIZE)),
        (TRANSPORT_SEQUENCE, bytes(_SEQUENCE_SIZE)),
        (MID, mid),
    ):
        if uri in ids and value:
            elements += bytes((ids[uri] << 4 | len(value) - 1,)) + value
            ends[uri] = len(elements)
    if not elements:
        return _Template(0, 0, 0, 0)
    elements += bytes(-len(elements) % 4)
    units = {uri: 1 << 8 * (len(elements) - end) for uri, end in ends.items()}
    block = struct.pack("!HH", ONE_BYTE_PROFILE, len(elements) // 4) + elements
    constant = int.from_bytes(block, "big")
    return _Template(constant, len(block), units.get(ABSOLUTE_SEND_TIME, 0), units.get(TRANSPORT_SEQUENCE, 0))


class FieldReader:
    """Reads one element, an unsigned integer of `size` bytes, from extensions. Call `read` for each packet received."""

    __slots__ = ("_data_size", "_id", "_layout", "_layout_mask", "_shift", "_size", "_value_mask")

    def __init__(self, element_id: int, size: int) -> None:
        self._id = element_id
        self._size = size
        self._value_mask = (1 << 8 * size) - 1
        self._data_size = -1
        self._layout_mask = self._layout = self._shift = 0

    def read(self, profile: int, data: bytes) -> int | None:
        """Return the field of an extension of RFC 8285, or None if it is missing or malformed."""
        number = int.from_bytes(data, "big")
        if profile != ONE_BYTE_PROFILE:
            return self._read_any(profile, data)
        if len(data) != self._data_size or number & self._layout_mask != self._layout:
            self._learn(data, number)
            if self._data_size < 0:
                return None
        return number >> self._shift & self._value_mask

    def _read_any(self, profile: int, data: bytes) -> int | None:
        try:
            value = decode_extensions(profile, data).get(self._id, b"")
        except DecodeError:
            return None
        return int.from_bytes(value, "big") if len(value) == self._size else None

    def _learn(self, data: bytes, number: int) -> None:
        """Cache the position of the element, and the headers up to it. While the headers match, the position holds."""
        self._data_size = -1
        mask, position, end = 0, 0, len(data)
        while position < end:
            mask |= 0xFF << 8 * (end - position - 1)
            head = data[position]
            size = (head & 0x0F) + 1 if head else 0
            position += 1 + size
            if head >> 4 == self._id and head:
                if size == self._size and position <= end:
                    self._data_size, self._shift = end, 8 * (end - position)
                    self._layout_mask, self._layout = mask, number & mask
                return
            if head >> 4 == 15:
                return
