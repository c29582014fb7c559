"""The values of the attributes that a negotiation reads or writes. `decode` raises DecodeError, `encode` inverts it."""

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
"""What an answer says to a direction offered (RFC 8866 §6.7, RFC 3264 §6.1)."""

DIGEST_SIZES = {"sha-256": 32, "sha-384": 48, "sha-512": 64}
"""Hash functions of fingerprints that are taken (RFC 8122 §5), and the bytes of their digests."""

_RTPMAP = re.compile(r"(\d{1,3})[ \t]+([^\s/]+)/(\d{1,9})(?:/(\d{1,2}))?", re.ASCII)
_EXTMAP = re.compile(r"(\d{1,4})(?:/(sendrecv|sendonly|recvonly|inactive))?[ \t]+(\S+)(?:[ \t].*)?", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,18}")
_HEX_PAIRS = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2})*")


class RtpMap(msgspec.Struct, frozen=True):
    """`a=rtpmap` (RFC 8866 §6.6)."""

    payload_type: int
    encoding: str
    clock_rate: int
    channels: int = 1

    @classmethod
    def decode(cls, value: str) -> Self:
        match = _RTPMAP.fullmatch(value.strip())
        if match is None or int(match[1]) > 127:
            raise DecodeError(f"bad a=rtpmap: {value[:40]!r}")
        return cls(int(match[1]), match[2], int(match[3]), int(match[4] or 1))

    def encode(self) -> str:
        channels = "" if self.channels == 1 else f"/{self.channels}"
        return f"{self.payload_type} {self.encoding}/{self.clock_rate}{channels}"


class FormatParameters(msgspec.Struct, frozen=True):
    """`a=fmtp` (RFC 8866 §6.15). A parameter without a value has an empty one."""

    format: str
    parameters: dict[str, str]

    @classmethod
    def decode(cls, value: str) -> Self:
        format_, _, rest = value.strip().partition(" ")
        if not format_:
            raise DecodeError("bad a=fmtp: it is empty")
        pairs = (part.strip().partition("=") for part in rest.split(";"))
        return cls(format_, {name.strip(): given.strip() for name, _, given in pairs if name.strip()})

    def encode(self) -> str:
        pairs = (f"{name}={value}" if value else name for name, value in self.parameters.items())
        return f"{self.format} {';'.join(pairs)}"


class ExtMap(msgspec.Struct, frozen=True):
    """`a=extmap` (RFC 8285 §5). Extension attributes behind the URI are dropped."""

    id: int
    uri: str
    direction: Direction = "sendrecv"

    @classmethod
    def decode(cls, value: str) -> Self:
        match = _EXTMAP.fullmatch(value.strip())
        if match is None:
            raise DecodeError(f"bad a=extmap: {value[:40]!r}")
        return cls(int(match[1]), match[3], cast(Direction, match[2] or "sendrecv"))

    def encode(self) -> str:
        direction = "" if self.direction == "sendrecv" else f"/{self.direction}"
        return f"{self.id}{direction} {self.uri}"


class Group(msgspec.Struct, frozen=True):
    """`a=group` (RFC 5888 §5)."""

    semantics: str
    mids: tuple[str, ...]

    @classmethod
    def decode(cls, value: str) -> Self:
        semantics, *mids = value.split() or [""]
        if not semantics:
            raise DecodeError("bad a=group: it is empty")
        return cls(semantics, tuple(mids))

    def encode(self) -> str:
        return " ".join((self.semantics, *self.mids))


def decode_number(name: str, value: str) -> int:
    """Read an attribute whose value is one number, such as `a=sctp-port` (RFC 8841 §5.1)."""
    if not _NUMBER.fullmatch(value.strip()):
        raise DecodeError(f"bad a={name}: {value[:40]!r}")
    return int(value)


def decode_fingerprint(value: str) -> Fingerprint | None:
    """Read `a=fingerprint` (RFC 8122 §5); None for a hash function that is not taken, such as sha-1."""
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
