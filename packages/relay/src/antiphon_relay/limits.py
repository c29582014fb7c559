"""Rate limits: token buckets in the form of the generic cell rate algorithm, with one number for each bucket."""

from array import array
from hashlib import blake2b


class Bucket:
    """A token bucket: `rate` packets a second pass, and `burst` (at least 1) at once. Call `allow` for each packet."""

    __slots__ = ("_due", "_interval", "_slack")

    def __init__(self, rate: float, burst: int) -> None:
        self._interval = 1 / rate
        self._slack = (burst - 1) * self._interval
        self._due = 0.0

    def allow(self, now: float) -> bool:
        """Return True if one more passes at `now` (seconds). A refused one uses up nothing."""
        due = max(self._due, now)
        if due - now > self._slack:
            return False
        self._due = due + self._interval
        return True


class BucketArray:
    """A fixed number of buckets, each for the names whose keyed hash selects it. Call `allow` for each packet.

    `key` is secret, so that an attacker cannot choose a name that shares another's bucket.
    """

    def __init__(self, size: int, rate: float, burst: int, key: bytes) -> None:
        self._due = array("d", bytes(8 * size))
        self._interval = 1 / rate
        self._slack = (burst - 1) * self._interval
        self._key = key

    def allow(self, name: bytes, now: float) -> bool:
        """Return True if one more of `name` passes at `now` (seconds). A refused one uses up nothing."""
        index = int.from_bytes(blake2b(name, digest_size=8, key=self._key).digest(), "big") % len(self._due)
        due = max(self._due[index], now)
        if due - now > self._slack:
            return False
        self._due[index] = due + self._interval
        return True
