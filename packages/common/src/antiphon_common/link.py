"""The link between relay and transceiver: the header in front of every datagram, and the messages they exchange.

The header is 32 bytes, big-endian:

    version and flags u8 | key id u8 | path (22 bytes, `Path.encode`) | tag (8 bytes)

The version, 1, is the high nibble. The tag is keyed BLAKE2b (RFC 7693) of 8 bytes over the 24 bytes before it, so the
header of a flow is constant. A message has the MESSAGE flag, a path of zeros and, behind the header, a body whose
bytes the tag covers too:

    type u8 | version u8 | length u16 | payload

Unknown types and versions are skipped. A payload may be longer than expected: later versions append to it.
"""

import hmac
from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple, TypeVar

from antiphon_common.core import PATH_SIZE, Path
from antiphon_common.errors import DecodeError
from antiphon_common.keys import DerivedKeys
from antiphon_common.routing import TOKEN_SIZE, Owner
from antiphon_common.wire import Reader, Writer

VERSION = 1
MESSAGE = 0x1
"""Flag: a message follows instead of a client's datagram."""
DOWNLINK = 0x2
"""Flag: towards the client, so that a datagram cannot be reflected to its sender."""

HEADER_SIZE = 32
PATH_START, PATH_STOP = 2, 2 + PATH_SIZE
"""`datagram[PATH_START:PATH_STOP]` is the encoded path, which is the key of every path table."""
TAG_SIZE = 8
MAX_LINK_DATAGRAM = 2048
"""Bytes of a link datagram. Firefox sends 1408, to which this header and that of an overlay network are added."""

MAX_ANNOUNCED_PATHS = 50
"""Paths in one ANNOUNCE: it fits 1200 bytes."""
MAX_INGRESSES = 256
"""Ingress ids in one HELLO: more public addresses than a relay has."""

VERIFIED_HEADERS = 16384
"""Verified headers that are cached: more than the paths of one process. To verify one again costs a microsecond."""
VERIFIED_SECONDS = 10.0
"""How long a verified header stays cached, so that a retired key ends."""

_MESSAGE_VERSION = 1
_NO_PATH = bytes(PATH_SIZE)
_TAG_START = HEADER_SIZE - TAG_SIZE


class LinkKeys:
    """The keys of the link. A sender makes headers and messages with them, a receiver verifies both.

    Times are Unix times in seconds.
    """

    def __init__(self, keys: DerivedKeys) -> None:
        self._keys = keys
        self._verified: set[bytes] = set()
        self._forget_at = 0.0

    def header(self, path: Path, flags: int, unix_now: float) -> bytes:
        """Return the header for datagrams of `path`. It changes only with the key."""
        key_id, key = self._keys.minting(unix_now)
        head = bytes((VERSION << 4 | flags, key_id)) + path.encode()
        return head + _tag(key, head)

    def encode(self, message: "LinkMessage", unix_now: float) -> bytes:
        """Return the datagram of one message."""
        key_id, key = self._keys.minting(unix_now)
        head = bytes((VERSION << 4 | MESSAGE, key_id)) + _NO_PATH
        body = encode_message(message)
        return head + _tag(key, head + body) + body

    def verify(self, datagram: bytes, unix_now: float) -> bool:
        """Return True if version and tag of a datagram are valid. A cached header costs one set look-up."""
        if not self._forget_at - VERIFIED_SECONDS <= unix_now < self._forget_at:
            self._verified.clear()
            self._forget_at = unix_now + VERIFIED_SECONDS
        header = datagram[:HEADER_SIZE]
        if header in self._verified:
            return True
        if len(header) < HEADER_SIZE or header[0] >> 4 != VERSION:
            return False
        if header[PATH_START + 1]:
            return False  # the reserved byte of a path, so that what is verified can be decoded
        key = self._keys.accepting(header[1], unix_now)
        is_message = header[0] & MESSAGE
        covered = header[:_TAG_START] + datagram[HEADER_SIZE:] if is_message else header[:_TAG_START]
        if key is None or not hmac.compare_digest(_tag(key, covered), header[_TAG_START:]):
            return False
        if not is_message:
            if len(self._verified) >= VERIFIED_HEADERS:
                self._verified.clear()
            self._verified.add(header)
        return True


def _tag(key: bytes, data: bytes) -> bytes:
    return blake2b(data, digest_size=TAG_SIZE, key=key).digest()


class RelayHello(NamedTuple):
    """HELLO, from a relay to the transceivers of its cluster, sent regularly while the relay runs.

    A new `boot_id` means that the relay has just started, and has no flows. `away` are the ingresses whose shared
    address another host has now: nothing can leave by them.
    """

    ingresses: tuple[int, ...]
    boot_id: int
    away: tuple[int, ...] = ()


class Confirm(NamedTuple):
    """CONFIRM, from the owner of a path that it has validated. Sent again with each answer to a check."""

    path: Path


class Release(NamedTuple):
    """RELEASE, from the owner of a path: its call has ended, or its peer is disconnected."""

    path: Path


class Announce(NamedTuple):
    """ANNOUNCE, with an owner's confirmed paths, at most MAX_ANNOUNCED_PATHS in one message."""

    paths: tuple[Path, ...]


class Moved(NamedTuple):
    """MOVED: all calls whose tokens name `previous` are now owned by `successor`, which repeats this."""

    previous: Owner
    successor: Owner


class Disown(NamedTuple):
    """DISOWN, from the transceiver that a route token names: it has no call with this ufrag any more.

    Relays up to 0.2.0 skip it.
    """

    ufrag: bytes


LinkMessage = RelayHello | Confirm | Release | Announce | Moved | Disown
_Item = TypeVar("_Item")


def encode_message(message: LinkMessage) -> bytes:
    """Return the body of a message, which follows the header."""
    kind, payload = _encode_payload(message)
    writer = Writer()
    writer.push_uint8(kind)
    writer.push_uint8(_MESSAGE_VERSION)
    writer.push_block(payload, 2)
    return writer.getvalue()


def decode_message(body: bytes) -> LinkMessage | None:
    """Invert `encode_message`; return None for an unknown type or version.

    Raises:
        DecodeError: the body is malformed.
    """
    reader = Reader(body)
    kind, version, payload = reader.pull_uint8(), reader.pull_uint8(), reader.pull_block(2)
    reader.expect_end()
    pull = _PULL.get(kind) if version == _MESSAGE_VERSION else None
    return pull(Reader(payload)) if pull else None


def _encode_payload(message: LinkMessage) -> tuple[int, bytes]:
    writer = Writer()
    match message:
        case RelayHello(ingresses, boot_id, away):
            writer.push_uint64(boot_id)
            for ids in (ingresses, away) if away else (ingresses,):
                writer.push_block(b"".join(ingress.to_bytes(2, "big") for ingress in ids[:MAX_INGRESSES]), 2)
            return 1, writer.getvalue()
        case Confirm(path):
            return 2, path.encode()
        case Release(path):
            return 3, path.encode()
        case Announce(paths):
            writer.push_block(b"".join(path.encode() for path in paths[:MAX_ANNOUNCED_PATHS]), 2)
            return 4, writer.getvalue()
        case Moved(previous, successor):
            for owner in (previous, successor):
                writer.push_uint16(owner.cluster)
                writer.push_uint32(owner.host)
                writer.push_uint16(owner.port)
            return 5, writer.getvalue()
        case Disown(ufrag):
            return 6, ufrag


def _pull_path(reader: Reader) -> Path:
    return Path.decode(reader.pull_bytes(PATH_SIZE))


def _pull_hello(reader: Reader) -> RelayHello:
    boot_id = reader.pull_uint64()
    ingresses = _pull_all(reader, Reader.pull_uint16, MAX_INGRESSES)
    away = _pull_all(reader, Reader.pull_uint16, MAX_INGRESSES) if reader.remaining else ()
    return RelayHello(ingresses, boot_id, away)


def _pull_owner(reader: Reader) -> Owner:
    return Owner(reader.pull_uint16(), reader.pull_uint32(), reader.pull_uint16())


def _pull_all(reader: Reader, pull: Callable[[Reader], _Item], at_most: int) -> tuple[_Item, ...]:
    items = Reader(reader.pull_block(2))
    pulled: list[_Item] = []
    while items.remaining:
        if len(pulled) == at_most:
            raise DecodeError(f"more than {at_most} entries")
        pulled.append(pull(items))
    return tuple(pulled)


_PULL: dict[int, Callable[[Reader], LinkMessage]] = {
    1: _pull_hello,
    2: lambda reader: Confirm(_pull_path(reader)),
    3: lambda reader: Release(_pull_path(reader)),
    4: lambda reader: Announce(_pull_all(reader, _pull_path, MAX_ANNOUNCED_PATHS)),
    5: lambda reader: Moved(_pull_owner(reader), _pull_owner(reader)),
    6: lambda reader: Disown(reader.pull_bytes(TOKEN_SIZE)),
}
