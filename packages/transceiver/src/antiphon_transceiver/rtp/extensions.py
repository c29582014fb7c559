"""General header extensions of RTP (RFC 8285): several small elements in the header extension of a packet."""

from collections.abc import Mapping

from antiphon_common.errors import DecodeError, LocalProtocolError

ONE_BYTE_PROFILE = 0xBEDE
TWO_BYTE_PROFILE = 0x1000
"""The lowest of the sixteen two-byte profiles. The others differ in bits that the application may use."""

_ONE_BYTE_STOP = 15


def decode_extensions(profile: int, data: bytes) -> dict[int, bytes]:
    """Return the elements by id, or an empty dict for a profile that RFC 8285 does not define.

    Raises DecodeError when an element is longer than the rest of the data.
    """
    if profile == ONE_BYTE_PROFILE:
        return _decode_elements(data, header_size=1)
    if profile & 0xFFF0 == TWO_BYTE_PROFILE:
        return _decode_elements(data, header_size=2)
    return {}


def encode_extensions(elements: Mapping[int, bytes]) -> tuple[int, bytes]:
    """Return the profile and the padded data, in the one-byte form if it can hold the elements (RFC 8285 §4.2).

    Raises LocalProtocolError for an id outside 1 to 255, or an element longer than 255 bytes.
    """
    one_byte = all(element_id < _ONE_BYTE_STOP and 1 <= len(value) <= 16 for element_id, value in elements.items())
    data = bytearray()
    for element_id, value in elements.items():
        if not 1 <= element_id <= 255 or len(value) > 255:
            raise LocalProtocolError(f"header extension {element_id} of {len(value)} bytes cannot be encoded")
        data += bytes((element_id << 4 | len(value) - 1,)) if one_byte else bytes((element_id, len(value)))
        data += value
    data += bytes(-len(data) % 4)
    return ONE_BYTE_PROFILE if one_byte else TWO_BYTE_PROFILE, bytes(data)


def _decode_elements(data: bytes, header_size: int) -> dict[int, bytes]:
    elements: dict[int, bytes] = {}
    position, end = 0, len(data)
    while position < end:
        first = data[position]
        if not first:  # padding
            position += 1
            continue
        if header_size == 1:
            element_id, size = first >> 4, (first & 0x0F) + 1
            if element_id == _ONE_BYTE_STOP:
                break
        else:
            if position + 1 == end:
                raise DecodeError("RTP header extension is cut short")
            element_id, size = first, data[position + 1]
        position += header_size
        if position + size > end:
            raise DecodeError("RTP header extension is cut short")
        elements[element_id] = data[position : position + size]
        position += size
    return elements
