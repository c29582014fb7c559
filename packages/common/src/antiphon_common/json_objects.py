"""JSON objects that are kept encoded: events and sessions of the Realtime API, as msgpack maps.

An object of Python takes 20 to 70 times the memory of its bytes. What only passes through stays bytes, and is decoded
for no longer than a conversion takes. Its elements are counted before anything is built.
"""

from collections.abc import Generator, Mapping
from itertools import accumulate
from typing import Any

import msgspec

from antiphon_common.errors import DecodeError

MAX_ELEMENTS = 1 << 14
"""Keys and values of one object, itself included: 128 tools of 100 elements each fit. Decoded, they take 2 MiB at most,
and a few milliseconds."""

MAX_NESTING = 64
"""Objects and arrays within one another, the outermost included. JSON schemas of tools need about ten."""

EMPTY = msgspec.Raw(b"\x80")
"""An object without members."""

MALFORMED = (msgspec.DecodeError, UnicodeError, RecursionError, ValueError)
"""What msgspec raises over bad bytes: besides its own error those of text, of numbers and of nesting."""


class LimitError(DecodeError):
    """An object with too many elements, or nested too deeply. The message contains the limit."""


class UnsupportedError(DecodeError):
    """JSON that msgpack cannot express, such as an integer beyond 64 bits. `members` are what was decoded."""

    def __init__(self, message: str, members: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.members = members


def pack(members: Mapping[str, Any]) -> msgspec.Raw:
    """Encode an object. Raises ValueError for one that msgpack cannot express, or that is beyond the limits."""
    try:
        packed = msgspec.Raw(_packer.encode(members))
        validate(packed)
    except (TypeError, OverflowError, RecursionError, DecodeError) as error:
        raise ValueError(f"cannot be encoded: {error}") from None
    return packed


def unpack(packed: msgspec.Raw) -> dict[str, Any]:
    """Decode an object that was validated. Raises DecodeError for bytes that are none."""
    try:
        return _unpacker.decode(packed)
    except MALFORMED as error:
        raise DecodeError(f"not a JSON object: {error}") from None


def validate(packed: msgspec.Raw) -> None:
    """Check that bytes are an object of JSON as msgpack, within the limits. Raises DecodeError, `LimitError`."""
    size = len(memoryview(packed))
    if size > MAX_ELEMENTS:  # each element takes a byte at least
        for _ in walk(memoryview(packed), MAX_ELEMENTS):
            raise LimitError(f"more than {MAX_ELEMENTS} keys and values")
    level: list[Any] = [unpack(packed)]
    for _ in range(MAX_NESTING):
        level = [inner for outer in level for inner in _members(outer) if isinstance(inner, dict | list)]
        if not level:
            return
    raise LimitError(f"more than {MAX_NESTING} levels of nesting")


def from_json(text: str | bytes) -> msgspec.Raw:
    """Convert JSON text to msgpack. Raises DecodeError, `LimitError`, `UnsupportedError`."""
    check_json(text.encode() if isinstance(text, str) else text)
    try:
        decoded = _json_decoder.decode(text)
    except MALFORMED as error:
        raise DecodeError(f"not a JSON object: {error}") from None
    try:
        return msgspec.Raw(_packer.encode(decoded))
    except (TypeError, OverflowError) as error:
        raise UnsupportedError(str(error), decoded) from None


def to_json(packed: msgspec.Raw) -> bytes:
    """Convert an object to JSON text in UTF-8. Raises DecodeError for one that JSON cannot express."""
    try:
        return msgspec.json.encode(unpack(packed))
    except (TypeError, ValueError, RecursionError) as error:
        raise DecodeError(str(error)) from None


def check_json(text: bytes | bytearray) -> None:
    """Check JSON text against the limits of an object, without checking that it is JSON.

    Raises LimitError beyond the limits, and DecodeError when more brackets are closed than opened.

    Linear in time, without recursion, and before any object is built.
    """
    bare = text.replace(rb"\\", b"").replace(rb"\"", b"")
    if bare.count(b'"') > 2 * MAX_ELEMENTS:
        raise LimitError(f"more than {MAX_ELEMENTS} keys and values")
    outside = b"0".join(bare.split(b'"')[::2]).translate(None, _WHITESPACE)
    opened, closed = (outside.count(first) + outside.count(second) for first, second in (b"[{", b"]}"))
    empty = outside.count(b"[]") + outside.count(b"{}")
    if 1 + opened + outside.count(b",") + outside.count(b":") - empty > MAX_ELEMENTS:
        raise LimitError(f"more than {MAX_ELEMENTS} keys and values")
    if closed > opened:
        raise DecodeError("not a JSON object: more brackets are closed than opened")
    brackets = outside.translate(None, _NO_BRACKETS)
    if max(accumulate(map(_NESTING.__getitem__, brackets)), default=0) > MAX_NESTING:
        raise LimitError(f"more than {MAX_NESTING} levels of nesting")


def walk(data: memoryview, pause: int, start: int = 0) -> Generator[None, None, int]:
    """Find the end of the msgpack value at `start` without recursion, and return it.

    Yields after every `pause` elements, if more follow. Raises DecodeError for a value that is cut off, or whose
    headers promise more elements than there are bytes.
    """
    position, missing, left, end = start, 1, pause, len(data)
    while missing:
        if missing > end - position:
            raise DecodeError("a msgpack value that is cut off")
        first = data[position]
        missing -= 1
        if 0x80 <= first < 0xA0:
            missing += (first & 15) << (first < 0x90)
            position += 1
        else:
            width, skipped = _WIDTHS[first]
            position += 1 + width
            if width:
                count = int.from_bytes(data[position - width : position], "big")
                if first >= 0xDC:
                    missing += count << (first >= 0xDE)
                else:
                    skipped += count
            position += skipped
        left -= 1
        if not left and missing:
            left = pause
            yield None
    if position > end:
        raise DecodeError("a msgpack value that is cut off")
    return position


def _members(outer: Any) -> Any:
    return outer.values() if isinstance(outer, dict) else outer


def _widths() -> list[tuple[int, int]]:
    """By the first byte of a value: how many bytes of length or count follow, and how many bytes besides."""
    widths = [(0, 0)] * 256
    for first in range(0xA0, 0xC0):
        widths[first] = (0, first & 31)
    lengths = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
    extensions = {0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)}
    fixed = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
    fixed |= {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}
    for table in ({k: (n, 0) for k, n in lengths.items()}, extensions, {k: (0, n) for k, n in fixed.items()}):
        for first, entry in table.items():
            widths[first] = entry
    return widths


def _refuse_extension(code: int, data: memoryview) -> None:
    raise msgspec.ValidationError(f"an extension of msgpack, number {code}")


_WIDTHS = _widths()
_WHITESPACE = b" \t\r\n"
_NO_BRACKETS = bytes(sorted(set(range(256)) - set(b"[]{}")))
_NESTING = [1 if first in b"[{" else -1 for first in range(256)]
_packer = msgspec.msgpack.Encoder()
_unpacker = msgspec.msgpack.Decoder(dict[str, Any], ext_hook=_refuse_extension)
_json_decoder = msgspec.json.Decoder(dict[str, Any])
