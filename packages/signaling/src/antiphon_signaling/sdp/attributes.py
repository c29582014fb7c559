"""Values of the attributes that a negotiation reads or writes. `encode` inverts `decode`."""

import re
from typing import Self, cast

import msgspec

from antiphon_common.control import Direction, Fingerprint
from antiphon_common.errors import DecodeError

DIRECTIONS: tuple[Direction, ...] = ("sendrecv", "sendonly", "recvonly", "inactive")
MIRRORED: dict[Direction, Direction] = {
    "sendrecv": "sendrecv",
    "sendonly": "recvonly",
    "recvonly": "sendonly",
    "inactive": "inactive",
}
"""The answered direction by the offered one (RFC 8866 §6.7, RFC 3264 §6.1)."""

DIGEST_SIZES = {"sha-256": 32, "sha-384": 48, "sha-512": 64}
"""Hash functions of accepted fingerprints (RFC 8122 §5), and the bytes of their digests."""

_RTPMAP = re.compile(r"(\d{1,3})[ \t]+([^\s/]+)/(\d{1,9})(?:/(\d{1,2}))?", re.ASCII)
_EXTMAP = re.compile(r"(\d{1,4})(?:/(sendrecv|sendonly|recvonly|inactive))?[ \t]+(\S+)(?:[ \t].*)?", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,18}")
_HEX_PAIRS = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2})*")


class RtpMap(msgspec.Struct, frozen=True):
    """The value of `a=rtpmap` (RFC 8866 §6.6). `decode` reads it, `encode` writes it."""

    payload_type: int
    encoding: str
    clock_rate: int
    channels: int = 1

    @classmethod
    def decode(cls, value: str) -> Self:
        """Read a value.

        Raises:
            DecodeError: the value is malformed.
        """
        match = _RTPMAP.fullmatch(value.strip())
        if match is None or int(match[1]) > 127:
            raise DecodeError(f"bad a=rtpmap: {value[:40]!r}")
        return cls(int(match[1]), match[2], int(match[3]), int(match[4] or 1))

    def encode(self) -> str:
        channels = "" if self.channels == 1 else f"/{self.channels}"
        return f"{self.payload_type} {self.encoding}/{self.clock_rate}{channels}"


class FormatParameters(msgspec.Struct, frozen=True):
    """The value of `a=fmtp` (RFC 8866 §6.15). `decode` reads it, `encode` writes it.

    A parameter without a value has an empty one.
    """

    format: str
    parameters: dict[str, str]

    @classmethod
    def decode(cls, value: str) -> Self:
        """Read a value.

        Raises:
            DecodeError: the value is malformed.
        """
        format_, _, rest = value.strip().partition(" ")
        if not format_:
            raise DecodeError("bad a=fmtp: it is empty")
        pairs = (part.strip().partition("=") for part in rest.split(";"))
        return cls(format_, {name.strip(): given.strip() for name, _, given in pairs if name.strip()})

    def encode(self) -> str:
        pairs = (f"{name}={value}" if value else name for name, value in self.parameters.items())
        return f"{self.format} {';'.join(pairs)}"


class ExtMap(msgspec.Struct, frozen=True):
    """The value of `a=extmap` (RFC 8285 §5). `decode` reads it, without extension attributes; `encode` writes it."""

    id: int
    uri: str
    direction: Direction = "sendrecv"

    @classmethod
    def decode(cls, value: str) -> Self:
        """Read a value.

        Raises:
            DecodeError: the value is malformed.
        """
        match = _EXTMAP.fullmatch(value.strip())
        if match is None:
            raise DecodeError(f"bad a=extmap: {value[:40]!r}")
        return cls(int(match[1]), match[3], cast(Direction, match[2] or "sendrecv"))

    def encode(self) -> str:
        direction = "" if self.direction == "sendrecv" else f"/{self.direction}"
        return f"{self.id}{direction} {self.uri}"


class Group(msgspec.Struct, frozen=True):
    """The value of `a=group` (RFC 5888 §5). `decode` reads it, `encode` writes it."""

    semantics: str
    mids: tuple[str, ...]

    @classmethod
    def decode(cls, value: str) -> Self:
        """Read a value.

        Raises:
            DecodeError: the value is malformed.
        """
        semantics, *mids = value.split() or [""]
        if not semantics:
            raise DecodeError("bad a=group: it is empty")
        return cls(semantics, tuple(mids))

    def encode(self) -> str:
        return " ".join((self.semantics, *self.mids))


def decode_number(name: str, value: str) -> int:
    """Read an attribute whose value is one number, such as `a=sctp-port` (RFC 8841 §5.1).

    Raises:
        DecodeError: the value is no number of at most 18 digits.
    """
    if not _NUMBER.fullmatch(value.strip()):
        raise DecodeError(f"bad a={name}: {value[:40]!r}")
    return int(value)


def decode_fingerprint(value: str) -> Fingerprint | None:
    """Read `a=fingerprint` (RFC 8122 §5). Return None for a hash function that is not accepted, such as sha-1.

    Raises:
        DecodeError: the digest is malformed.
    """
    algorithm, _, digest = value.strip().partition(" ")
    algorithm, digest = algorithm.lower(), digest.strip().upper()
    size = DIGEST_SIZES.get(algorithm)
    if size is None:
        return None
    if not _HEX_PAIRS.fullmatch(digest) or len(digest) != 3 * size - 1:
        raise DecodeError(f"bad a=fingerprint: a {algorithm} digest is {size} bytes in hex with colons")
    return Fingerprint(algorithm, digest)


def encode_fingerprint(fingerprint: Fingerprint) -> str:
    return f"{fingerprint.algorithm} {fingerprint.value}"
