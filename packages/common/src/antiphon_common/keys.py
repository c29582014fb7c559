"""The secrets that all services of an installation share, and the keys derived from them.

A secret file has lines `id:base64[:accept_from:mint_from:retire_after]`: id 0 to 63, times in Unix seconds. An absent
time means always. To rotate, add a line whose `mint_from` is later than every service has the new file. Give the old
line a `retire_after` that leaves time to renew link headers. `KeyRing.rotate` does both.
"""

import base64
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Self

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from antiphon_common.errors import AntiphonError

MAX_KEY_ID = 63
"""Key ids fit one ice-char of the route token (RFC 8839 §5.1)."""
SECRET_SIZE = 32
MIN_SECRET_SIZE = 16
DERIVED_SIZE = 32


class KeyRingError(AntiphonError, ValueError):
    """A secret file that cannot be used. The message has the remedy, and never quotes a secret."""


class Key(NamedTuple):
    """One secret and its times, from a line of the secret file. `KeyRing` derives the keys of each purpose from it.

    It is accepted from `accept_from` until `retire_after`, and makes new tokens and tags from `mint_from` on. Times are
    Unix seconds; None means always.
    """

    id: int
    secret: bytes
    accept_from: int | None = None
    mint_from: int | None = None
    retire_after: int | None = None

    def accepts(self, unix_now: float) -> bool:
        """Return True if the key is accepted at `unix_now`."""
        begun = self.accept_from is None or self.accept_from <= unix_now
        return begun and (self.retire_after is None or unix_now <= self.retire_after)

    def mints(self, unix_now: float) -> bool:
        """Return True if the key may make new tokens and tags at `unix_now`."""
        return self.accepts(unix_now) and self.began(unix_now)

    @property
    def begins(self) -> int:
        """When the key may first mint, in Unix seconds."""
        return max(self.accept_from or 0, self.mint_from or 0)

    def began(self, unix_now: float) -> bool:
        """Return True once the key may mint, also after it has retired."""
        return self.begins <= unix_now

    def __repr__(self) -> str:
        return f"Key(id={self.id}, {self.accept_from}, {self.mint_from}, {self.retire_after})"


class DerivedKeys:
    """The keys of one purpose: `minting` returns the key for new uses, `accepting` that of a peer's key id.

    Each has 32 bytes, derived by HKDF-SHA256 with an empty salt (RFC 5869).
    """

    def __init__(self, keys: Iterable[Key], purpose: str) -> None:
        info = f"antiphon/{purpose}".encode()
        self._purpose = purpose
        self._keys = {key.id: (key, _derive(key.secret, info)) for key in keys}

    def minting(self, unix_now: float) -> tuple[int, bytes]:
        """Return id and bytes of the key for new tokens and tags: of those that may mint, the latest to begin.

        If every key has retired, the last one stays in use, so that a forgotten rotation ends no call. If none has
        begun, the first is used, so that a clock that was set back ends no call.
        """
        begun = [pair for pair in self._keys.values() if pair[0].began(unix_now)]
        if not begun:
            key, derived = min(self._keys.values(), key=lambda pair: (pair[0].begins, pair[0].id))
            return key.id, derived
        able = [pair for pair in begun if pair[0].accepts(unix_now)] or begun
        key, derived = max(able, key=lambda pair: (pair[0].mint_from or 0, pair[0].id))
        return key.id, derived

    def accepting(self, key_id: int, unix_now: float) -> bytes | None:
        """Return the key with a peer's key id, or None if no such key is accepted now."""
        pair = self._keys.get(key_id)
        if pair is None:
            return None
        key, derived = pair
        return derived if key.accepts(unix_now) or self.minting(unix_now)[0] == key_id else None

    def replace(self, other: "DerivedKeys") -> None:
        """Take the keys of `other`."""
        self._keys = other._keys

    def __repr__(self) -> str:
        return f"DerivedKeys({self._purpose}, ids={sorted(self._keys)})"


class KeyRing:
    """All keys of a secret file. `load` or `parse` makes it; pass `route`, `link` or `control` to their users.

    `route` seals route tokens (AES-128 takes the first 16 bytes). `link` tags datagrams between relay and transceiver.
    `control` is the Bearer token of the control API.
    """

    def __init__(self, keys: Iterable[Key], source: Path | None = None) -> None:
        """Take keys, and the file that they come from, if any.

        Raises:
            KeyRingError: there is no key, or two have the same id.
        """
        self.keys = tuple(keys)
        self.source = source
        if not self.keys:
            raise KeyRingError("there is no key: make a secret file with `python -m antiphon keygen FILE`")
        ids = [key.id for key in self.keys]
        if len(set(ids)) < len(ids):
            raise KeyRingError("two keys have the same id: give each its own, 0 to 63")
        self.route = DerivedKeys(self.keys, "route")
        self.link = DerivedKeys(self.keys, "link")
        self.control = DerivedKeys(self.keys, "control")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the lines of a secret file. Empty lines and comments, which begin with `#`, are skipped.

        Raises:
            KeyRingError: a line is malformed, or there is no key.
        """
        lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
        return cls([_parse_line(number, line) for number, line in lines if line and not line.startswith("#")])

    @classmethod
    def load(cls, file: str | Path) -> Self:
        """Read a secret file.

        Raises:
            KeyRingError: the file cannot be read or is malformed. The message has its name.
        """
        try:
            return cls(cls.parse(Path(file).read_text("ascii")).keys, Path(file))
        except OSError as error:
            raise KeyRingError(f"cannot read the secret file {file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise KeyRingError(f"{file} is no secret file: `python -m antiphon keygen` makes one") from None
        except KeyRingError as error:
            raise KeyRingError(f"{file}: {error}") from None

    @classmethod
    def generate(cls, random: Callable[[int], bytes]) -> Self:
        """Make a ring of one new key with id 0, which is always valid."""
        return cls([Key(0, random(SECRET_SIZE))])

    def replace(self, other: "KeyRing") -> None:
        """Take the keys of another ring. All users of this ring, or of its derived keys, have them from now on."""
        self.keys = other.keys
        for mine, theirs in ((self.route, other.route), (self.link, other.link), (self.control, other.control)):
            mine.replace(theirs)

    def rotate(self, secret: bytes, unix_now: int, *, mint_after: int, retire_after: int) -> Self:
        """Return a ring with a new key, which mints from `mint_after` seconds on.

        The other keys retire `retire_after` seconds after that. Keys that have retired already are left out.

        Raises:
            KeyRingError: all 64 key ids are in use.
        """
        mint_from = unix_now + mint_after
        retire = mint_from + retire_after
        kept = [key for key in self.keys if key.retire_after is None or key.retire_after >= unix_now]
        newest = max(kept, key=lambda key: key.mint_from or 0, default=self.keys[-1]).id
        free = (number % (MAX_KEY_ID + 1) for number in range(newest + 1, newest + 1 + MAX_KEY_ID))
        key_id = next((number for number in free if all(key.id != number for key in kept)), None)
        if key_id is None:
            raise KeyRingError("all 64 key ids are in use: remove the lines of keys that are no longer used")
        retiring = [key._replace(retire_after=min(key.retire_after or retire, retire)) for key in kept]
        return type(self)([*retiring, Key(key_id, secret, mint_from=mint_from)])

    def is_early(self, unix_now: float) -> bool:
        """Return True if no key has begun, so that the first one is used early."""
        return not any(key.began(unix_now) for key in self.keys)

    def is_overdue(self, unix_now: float) -> bool:
        """Return True if every key has retired, so that the last one stays in use."""
        return not any(key.mints(unix_now) for key in self.keys)

    def format(self) -> str:
        """Return the text of the secret file, the inverse of `parse`. It has the secrets."""
        return "".join(f"{_format_line(key)}\n" for key in self.keys)

    def __repr__(self) -> str:
        return f"KeyRing({list(self.keys)})"


def _derive(secret: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=DERIVED_SIZE, salt=None, info=info).derive(secret)


def _parse_line(number: int, line: str) -> Key:
    key_id, _, rest = line.partition(":")
    encoded, *times = rest.split(":")
    if len(times) > 3 or not key_id.isdecimal() or int(key_id) > MAX_KEY_ID:
        raise KeyRingError(f"line {number} is not id:base64[:accept_from:mint_from:retire_after] with an id of 0 to 63")
    try:
        secret = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise KeyRingError(f"line {number}: the second field is not base64") from None
    if len(secret) < MIN_SECRET_SIZE:
        raise KeyRingError(f"line {number}: the secret has {len(secret)} bytes, it needs at least {MIN_SECRET_SIZE}")
    if not all(time.isdecimal() or not time for time in times):
        raise KeyRingError(f"line {number}: times are whole Unix seconds, or left empty")
    moments = [int(time) if time else None for time in times]
    return Key(int(key_id), secret, *moments)


def _format_line(key: Key) -> str:
    times = ["" if time is None else str(time) for time in (key.accept_from, key.mint_from, key.retire_after)]
    return ":".join([str(key.id), base64.b64encode(key.secret).decode(), *times]).rstrip(":")
