"""Rate limits: token buckets in the form of the generic cell rate algorithm, which needs one number for each bucket."""

from array import array
from hashlib import blake2b


class Bucket:
    """Lets `rate` a second pass, and `burst` at once (at least 1)."""

    __slots__ = ("_due", "_interval", "_slack")

    def __init__(self, rate: float, burst: int) -> None:
        self._interval = 1 / rate
        self._slack = (burst - 1) * self._interval
        self._due = 0.0

    def allow(self, now: float) -> bool:
        """Return whether one more passes at `now` (seconds); what does not pass costs nothing."""
        due = max(self._due, now)
        if due - now > self._slack:
            return False
        self._due = due + self._interval
        return True


class BucketArray:
    """A fixed number of buckets, each for the names whose keyed hash leads to it. `key` is secret, so that nobody can
    choose whose bucket to share."""

    def __init__(self, size: int, rate: float, burst: int, key: bytes) -> None:
        self._due = array("d", bytes(8 * size))
        self._interval = 1 / rate
        self._slack = (burst - 1) * self._interval
        self._key = key

    def allow(self, name: bytes, now: float) -> bool:
        """Return whether one more of `name` passes at `now` (seconds); what does not pass costs nothing."""
        index = int.from_bytes(blake2b(name, digest_size=8, key=self._key).digest(), "big") % len(self._due)
        due = max(self._due[index], now)
        if due - now > self._slack:
            return False
        self._due[index] = due + self._interval
        return True
