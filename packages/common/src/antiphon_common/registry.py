"""What a transceiver writes of itself where others find it: in Redis, under a lease, sealed with the control key.

A value is JSON: `{"key": key id, "tag": hex, "transceiver": {…, "written": time}}`, the tag keyed BLAKE2b (RFC 7693)
of 16 bytes over the bytes of `transceiver`: the fields of `Registered`, and when it was written, in Unix seconds. So
whoever can write to Redis cannot make services talk, with their keys, to strangers, neither by entries of their own nor
by old ones of a transceiver that is gone.

Transceivers of 0.2.0 write no time. Their entries are taken as long as the key that sealed them is, so that a fleet
can be upgraded one by one; not from a place that has written a time before. Rotate the secret once all are upgraded:
that ends every entry without a time. The version after the next takes none.
"""

import hmac
from hashlib import blake2b

import msgspec

from antiphon_common.control import LinkInfo, Load
from antiphon_common.errors import DecodeError
from antiphon_common.keys import DerivedKeys

LEASE_SECONDS = 3.0
"""How long a transceiver that was not heard of any more stays listed."""
MAX_AGE = 60.0
"""Seconds that an entry may be older, or newer, than now: what clocks of one installation may differ by, which keys
need as well. For so long an entry can be repeated by somebody else."""
MAX_PLACES = 4096
"""Places remembered for having written a time; beyond them the oldest is forgotten."""
TAG_SIZE = 16
_PERSON = b"antiphon/place"


class Registered(msgspec.Struct, frozen=True):
    """One transceiver: where its control API and its link are, and how busy it is."""

    control_url: str
    link: LinkInfo
    load: Load


class _Entry(msgspec.Struct, frozen=True):
    """`Registered` as it is written."""

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
    """Return the value of the registry, under the control key to use now."""
    key_id, key = keys.minting(unix_now)
    body = msgspec.json.encode(_Entry(registered.control_url, registered.link, registered.load, unix_now))
    return msgspec.json.encode(_Sealed(key_id, _tag(key, body), msgspec.Raw(body)))


class RegistryReader:
    """Reads what transceivers have written."""

    def __init__(self, keys: DerivedKeys) -> None:
        self._keys = keys
        self._timed: dict[str, None] = {}
        """Places that have written a time, so that an entry without one is an old one of theirs."""

    def read(self, value: bytes, unix_now: float) -> Registered:
        """Invert `seal`; raise DecodeError for what no holder of a control key accepted now has written, or not now."""
        entry = self._open(value, unix_now)
        if entry.written is not None:
            self._remember(entry.control_url)
            if not -MAX_AGE <= unix_now - entry.written <= MAX_AGE:
                raise DecodeError("an entry of another time")
        elif entry.control_url in self._timed:
            raise DecodeError("an entry without a time, of a transceiver that has written one")
        return Registered(entry.control_url, entry.link, entry.load)

    def _open(self, value: bytes, unix_now: float) -> _Entry:
        try:
            sealed = _sealed.decode(value)
            key = self._keys.accepting(sealed.key, unix_now)
            body = bytes(sealed.transceiver)
            if key is None or not hmac.compare_digest(_tag(key, body).encode(), sealed.tag.encode()):
                raise DecodeError("no transceiver of this installation wrote it")
            return msgspec.json.decode(body, type=_Entry)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise DecodeError(f"not an entry of the registry: {error}") from None

    def _remember(self, place: str) -> None:
        if place not in self._timed:
            self._timed[place] = None
            if len(self._timed) > MAX_PLACES:
                del self._timed[next(iter(self._timed))]


def _tag(key: bytes, body: bytes) -> str:
    return blake2b(body, digest_size=TAG_SIZE, key=key, person=_PERSON).hexdigest()
