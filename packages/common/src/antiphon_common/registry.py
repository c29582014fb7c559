"""What a transceiver writes of itself where others find it: in Redis, under a lease, sealed with the control key.

A value is JSON: `{"key": key id, "tag": hex, "transceiver": Registered}`, the tag keyed BLAKE2b (RFC 7693) of 16 bytes
over the bytes of `transceiver`. So whoever can write to Redis cannot make services talk, with their keys, to strangers.
"""

import hmac
from hashlib import blake2b

import msgspec

from antiphon_common.control import LinkInfo, Load
from antiphon_common.errors import DecodeError
from antiphon_common.keys import DerivedKeys

LEASE_SECONDS = 3.0
"""How long a transceiver that was not heard of any more stays listed."""
TAG_SIZE = 16
_PERSON = b"antiphon/place"


class Registered(msgspec.Struct, frozen=True):
    """One transceiver: where its control API and its link are, and how busy it is."""

    control_url: str
    link: LinkInfo
    load: Load


class _Sealed(msgspec.Struct, frozen=True):
    key: int
    tag: str
    transceiver: msgspec.Raw


_sealed = msgspec.json.Decoder(_Sealed)


def seal(registered: Registered, keys: DerivedKeys, unix_now: float) -> bytes:
    """Return the value of the registry, under the control key to use now."""
    key_id, key = keys.minting(unix_now)
    body = msgspec.json.encode(registered)
    return msgspec.json.encode(_Sealed(key_id, _tag(key, body), msgspec.Raw(body)))


def unseal(value: bytes, keys: DerivedKeys, unix_now: float) -> Registered:
    """Invert `seal`; raise DecodeError for what no holder of a control key accepted now has written."""
    try:
        sealed = _sealed.decode(value)
        key = keys.accepting(sealed.key, unix_now)
        body = bytes(sealed.transceiver)
        if key is None or not hmac.compare_digest(_tag(key, body).encode(), sealed.tag.encode()):
            raise DecodeError("no transceiver of this installation wrote it")
        return msgspec.json.decode(body, type=Registered)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise DecodeError(f"not an entry of the registry: {error}") from None


def _tag(key: bytes, body: bytes) -> str:
    return blake2b(body, digest_size=TAG_SIZE, key=key, person=_PERSON).hexdigest()
