"""The registry: the entry that a transceiver writes in Redis, under a lease, sealed with the control key.

A value is JSON: `{"key": key id, "tag": hex, "transceiver": {…, "written": time}}`. The tag is keyed BLAKE2b (RFC 7693)
of 16 bytes over the bytes of `transceiver`: the fields of `Registered`, and the Unix time at which it was written, in
seconds. So write access to Redis is not enough to make services send their keys elsewhere, neither by a forged entry
nor by an old entry of a transceiver that has ended.

Transceivers of 0.2.0 write no time. Their entries are accepted as long as the key that sealed them is, so that a fleet
can be upgraded one by one, but not from a transceiver that has written a time before. Rotate the secret once all are
upgraded: that ends every entry without a time. The version after the next accepts none.
"""

import hmac
from hashlib import blake2b

import msgspec

from antiphon_common.control import LinkInfo, Load
from antiphon_common.errors import DecodeError
from antiphon_common.keys import DerivedKeys

LEASE_SECONDS = 3.0
"""How long a transceiver stays listed after it last renewed its lease."""
MAX_AGE = 60.0
"""Seconds by which an entry may be older or newer than now: clocks of one installation may differ by as much, as keys
require too. An attacker can replay an entry for as long."""
MAX_REMEMBERED = 4096
"""Transceivers remembered for having written a time; beyond them the oldest is removed."""
TAG_SIZE = 16
_PERSON = b"antiphon/place"


class Registered(msgspec.Struct, frozen=True):
    """The entry of one transceiver: the URL of its control API, its link addresses, and its load."""

    control_url: str
    link: LinkInfo
    load: Load


class _TimedEntry(msgspec.Struct, frozen=True):
    """`Registered` with the time at which it was written, as it stands in Redis."""

    control_url: str
    link: LinkInfo
    load: Load
    written: float | None = None


class _Sealed(msgspec.Struct, frozen=True):
    key: int
    tag: str
    transceiver: msgspec.Raw


_sealed = msgspec.json.Decoder(_Sealed)


def seal(registered: Registered, keys: DerivedKeys, unix_now: float) -> bytes:
    """Return the value to write for a transceiver, sealed with the control key that mints at `unix_now` (seconds)."""
    key_id, key = keys.minting(unix_now)
    body = msgspec.json.encode(_TimedEntry(registered.control_url, registered.link, registered.load, unix_now))
    return msgspec.json.encode(_Sealed(key_id, _tag(key, body), msgspec.Raw(body)))


class RegistryReader:
    """Opens values of the registry; keep one reader, since it remembers which transceivers write a time."""

    def __init__(self, keys: DerivedKeys) -> None:
        self._keys = keys
        self._timed: dict[str, None] = {}
        """Control URLs of transceivers that have written a time: an entry of theirs without one is an old one."""

    def read(self, value: bytes, unix_now: float) -> Registered:
        """Invert `seal`.

        Raises:
            DecodeError: no holder of an accepted control key has written the value, or it is older or newer than
                `MAX_AGE`.
        """
        entry = self._open(value, unix_now)
        if entry.written is not None:
            self._remember(entry.control_url)
            if not -MAX_AGE <= unix_now - entry.written <= MAX_AGE:
                raise DecodeError("an entry of another time")
        elif entry.control_url in self._timed:
            raise DecodeError("an entry without a time, of a transceiver that has written one")
        return Registered(entry.control_url, entry.link, entry.load)

    def _open(self, value: bytes, unix_now: float) -> _TimedEntry:
        try:
            sealed = _sealed.decode(value)
            key = self._keys.accepting(sealed.key, unix_now)
            body = bytes(sealed.transceiver)
            if key is None or not hmac.compare_digest(_tag(key, body).encode(), sealed.tag.encode()):
                raise DecodeError("no transceiver of this installation wrote it")
            return msgspec.json.decode(body, type=_TimedEntry)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise DecodeError(f"not an entry of the registry: {error}") from None

    def _remember(self, control_url: str) -> None:
        if control_url not in self._timed:
            self._timed[control_url] = None
            if len(self._timed) > MAX_REMEMBERED:
                del self._timed[next(iter(self._timed))]


def _tag(key: bytes, body: bytes) -> str:
    return blake2b(body, digest_size=TAG_SIZE, key=key, person=_PERSON).hexdigest()
