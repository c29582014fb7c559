"""Session descriptions as lines and attributes (RFC 8866), without meaning.

Origin, name, connections, attributes and media sections are kept. WebRTC does not use the other lines.
"""

import re
from typing import Self

import msgspec

from antiphon_common.errors import DecodeError

MAX_SIZE = 64 * 1024
"""Bytes of a description. A browser's offer with all its codecs has about 12,000."""
MAX_LINES = 4096
MAX_MEDIA = 64
"""Media sections of a description; each section of an offer costs one in the answer."""
MAX_ATTRIBUTES = 512
"""Attributes of the session, and of each media section."""
MAX_FORMATS = 256

_TOKEN = re.compile(r"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]+")
_MEDIA_LINE = re.compile(r"(\S+) (\d{1,5})(?:/\d{1,5})? (\S+)((?: \S+)+)")
MAX_PORT = 65535
BYTE_ORDER_MARK = "\ufeff"
NO_ORIGIN = "- 0 0 IN IP4 0.0.0.0"
"""Value for a missing `o=` line. Nothing here depends on it."""


class Attribute(msgspec.Struct, frozen=True):
    """An `a=` line. `encode` writes it. `value` is None for a property attribute such as `a=rtcp-mux`."""

    name: str
    value: str | None = None

    def encode(self) -> str:
        """Return the line without its end."""
        return f"a={self.name}" if self.value is None else f"a={self.name}:{self.value}"


class _DescriptionLevel(msgspec.Struct, frozen=True, kw_only=True):
    connection: str | None = None
    attributes: tuple[Attribute, ...] = ()

    def has(self, name: str) -> bool:
        return any(attribute.name == name for attribute in self.attributes)

    def value(self, name: str) -> str | None:
        """Return the value of the first attribute of that name; None when there is none or it has no value."""
        return next((attribute.value for attribute in self.attributes if attribute.name == name), None)

    def values(self, name: str) -> list[str]:
        """Return the values of all attributes of that name, in order."""
        return [a.value for a in self.attributes if a.name == name and a.value is not None]


class MediaDescription(_DescriptionLevel, frozen=True, kw_only=True):
    """An `m=` line and the lines of its section. `has`, `value` and `values` look attributes up.

    `connection` is the value of its `c=` line.
    """

    kind: str
    port: int
    protocol: str
    formats: tuple[str, ...]

    def encode(self) -> list[str]:
        """Return the lines without their ends."""
        connection = [] if self.connection is None else [f"c={self.connection}"]
        head = f"m={self.kind} {self.port} {self.protocol} {' '.join(self.formats)}"
        return [head, *connection, *(attribute.encode() for attribute in self.attributes)]


class SessionDescription(_DescriptionLevel, frozen=True, kw_only=True):
    """A whole session description. `decode` reads it, `encode` writes it.

    `origin` and `name` are the values of its `o=` and `s=` lines.
    """

    origin: str
    name: str = "-"
    media: tuple[MediaDescription, ...] = ()

    def encode(self) -> bytes:
        """Return the description with CRLF line ends, in the order of RFC 8866 §5."""
        connection = [] if self.connection is None else [f"c={self.connection}"]
        lines = ["v=0", f"o={self.origin}", f"s={self.name}", *connection, "t=0 0"]
        lines += [attribute.encode() for attribute in self.attributes]
        for section in self.media:
            lines += section.encode()
        return "".join(f"{line}\r\n" for line in lines).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a description. Lines may end in CRLF, LF or CR, with blanks before that.

        Raises:
            DecodeError: the description is malformed. The message is one sentence that names the line.
        """
        lines = read_lines(data)
        if lines[:1] != [("v", "0")]:
            raise DecodeError("not a session description: the first line is not v=0")
        starts = [index for index, (kind, _) in enumerate(lines) if kind == "m"]
        if len(starts) > MAX_MEDIA:
            raise DecodeError(f"the session description has more than {MAX_MEDIA} media sections")
        bounds = [*starts, len(lines)]
        head = lines[: bounds[0]]
        return cls(
            origin=_first(head, "o") or NO_ORIGIN,
            name=_first(head, "s") or "-",
            connection=_first(head, "c"),
            attributes=_attributes(head),
            media=tuple(_decode_media(lines[start:end]) for start, end in zip(starts, bounds[1:], strict=True)),
        )


def read_lines(data: bytes) -> list[tuple[str, str]]:
    """Return type and value of each line of SDP. Blank lines are skipped.

    Raises:
        DecodeError: the text is too long, not UTF-8, or has a malformed line.
    """
    if len(data) > MAX_SIZE:
        raise DecodeError(f"the session description is longer than {MAX_SIZE} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise DecodeError("the session description is not UTF-8") from None
    text = text.removeprefix(BYTE_ORDER_MARK).replace("\r\n", "\n").replace("\r", "\n")
    lines = [line.rstrip(" \t") for line in text.split("\n")]
    if len(lines) > MAX_LINES:
        raise DecodeError(f"the session description has more than {MAX_LINES} lines")
    return [_split_line(number, line) for number, line in enumerate(lines, 1) if line and line != "a="]


def _split_line(number: int, line: str) -> tuple[str, str]:
    if len(line) < 2 or line[1] != "=" or not "a" <= line[0] <= "z" or "\0" in line:
        raise DecodeError(f"line {number} of the session description is not of the form x=value")
    return line[0], line[2:]


def _first(lines: list[tuple[str, str]], wanted: str) -> str | None:
    return next((value for kind, value in lines if kind == wanted), None)


def _attributes(lines: list[tuple[str, str]]) -> tuple[Attribute, ...]:
    found = [value for kind, value in lines if kind == "a"]
    if len(found) > MAX_ATTRIBUTES:
        raise DecodeError(f"a section of the session description has more than {MAX_ATTRIBUTES} attributes")
    return tuple(attribute for attribute in map(_decode_attribute, found) if attribute is not None)


def _decode_attribute(line: str) -> Attribute | None:
    """Return an attribute, or None if its name is no token: unknown attributes are ignored (RFC 8866 §5.13)."""
    name, colon, value = line.partition(":")
    return Attribute(name.lower(), value if colon else None) if _TOKEN.fullmatch(name) else None


def _decode_media(lines: list[tuple[str, str]]) -> MediaDescription:
    head = lines[0][1]
    match = _MEDIA_LINE.fullmatch(" ".join(head.split()))
    if match is None or int(match[2]) > MAX_PORT or not match[2].isascii():
        raise DecodeError(f"the session description has a bad media line: {head[:40]!r}")
    formats = tuple(match[4].split())
    if len(formats) > MAX_FORMATS:
        raise DecodeError(f"a media line of the session description has more than {MAX_FORMATS} formats")
    return MediaDescription(
        kind=match[1],
        port=int(match[2]),
        protocol=match[3],
        formats=formats,
        connection=_first(lines, "c"),
        attributes=_attributes(lines),
    )
