"""Ownership of paths: one rule, by which relays assign paths to transceivers, and transceivers to their sessions.

| a path is | written by | until |
|---|---|---|
| provisional | an owner's answer; the newest answer wins | no answer came for `PROVISIONAL_SECONDS` |
| confirmed | its owner, once the path is validated | its release, or the owner's silence where that is allowed |

A client's packet never writes here, so spoofed sources fill no table, lock no client out and take over no path.
"""

from collections.abc import Hashable
from math import inf
from typing import Generic, TypeVar

OwnerT = TypeVar("OwnerT", bound=Hashable)

PROVISIONAL_SECONDS = 10.0
"""A path that is not validated in this time is dropped: DTLS retransmits a flight after at most a second."""
MAX_PROVISIONAL = 1024
"""Provisional paths of one owner. A new path evicts the oldest, so that a flood locks no client out."""
MAX_CONFIRMED = 8192
"""Confirmed paths of one owner: several for each call that one process can hold."""
EXPIRE_INTERVAL = 1.0
"""Seconds between two checks for what has expired."""


class Claim(Generic[OwnerT]):
    """One owner's claim on one path. `last_received` is when the owner last claimed the path, or sent on it.

    A table with more data for each path subclasses it.
    """

    __slots__ = ("confirmed", "key", "last_received", "owner")

    def __init__(self, key: bytes, owner: OwnerT, now: float) -> None:
        self.key = key
        self.owner = owner
        self.last_received = now
        self.confirmed = False


class OwnershipCounters:
    """Counts claims that ended without a release: `evicted` by a cap, `expired`, or `taken` by another owner.

    `refused` counts answers and confirmations on another owner's confirmed path.
    """

    __slots__ = ("evicted", "expired", "refused", "taken")

    def __init__(self) -> None:
        self.evicted = 0
        self.expired = 0
        self.refused = 0
        self.taken = 0


class _Holdings(Generic[OwnerT]):
    """The claims of one owner. The one that was written longest ago is first."""

    __slots__ = ("confirmed", "provisional")

    def __init__(self) -> None:
        self.provisional: dict[bytes, Claim[OwnerT]] = {}
        self.confirmed: dict[bytes, Claim[OwnerT]] = {}


class OwnershipTable(Generic[OwnerT]):
    """The owners of paths, by the 22 bytes of an encoded path. Owners write it, `lookup` reads it, `expire` cleans up.

    After `takeover_seconds` of an owner's silence another may answer on its confirmed path. After `silent_seconds` the
    path has no owner. By default only a release ends a confirmed path. A subclass with more data for each path
    overrides `_begin` and `_end`.
    """

    def __init__(
        self,
        *,
        takeover_seconds: float = inf,
        silent_seconds: float = inf,
        max_provisional: int = MAX_PROVISIONAL,
        max_confirmed: int = MAX_CONFIRMED,
    ) -> None:
        self.counters = OwnershipCounters()
        self._takeover_seconds = takeover_seconds
        self._silent_seconds = silent_seconds
        self._max_provisional = max_provisional
        self._max_confirmed = max_confirmed
        self._claims: dict[bytes, Claim[OwnerT]] = {}
        self._holdings: dict[OwnerT, _Holdings[OwnerT]] = {}
        self._expire_at = -inf

    def __len__(self) -> int:
        return len(self._claims)

    @property
    def confirmed(self) -> int:
        """The number of confirmed paths."""
        return sum(len(holdings.confirmed) for holdings in self._holdings.values())

    def lookup(self, key: bytes) -> OwnerT | None:
        """Return the owner of a path, which receives its packets."""
        claim = self._claims.get(key)
        return None if claim is None else claim.owner

    def is_confirmed(self, key: bytes, owner: OwnerT) -> bool:
        """Return True if a path is confirmed for this owner."""
        claim = self._claims.get(key)
        return claim is not None and claim.confirmed and claim.owner == owner

    def may_answer(self, key: bytes, owner: OwnerT, now: float) -> bool:
        """Return True if `answered` would succeed: the path is not confirmed for another owner."""
        claim = self._claims.get(key)
        return (
            claim is None
            or not claim.confirmed
            or claim.owner == owner
            or now - claim.last_received >= self._takeover_seconds
        )

    def answered(self, key: bytes, owner: OwnerT, now: float) -> bool:
        """Note that an owner sends on a path. Return True if the path is this owner's now."""
        claim = self._claims.get(key)
        if claim is None or claim.owner != owner:
            claim = self._claim(key, owner, now)
            if claim is None:
                return False
        claim.last_received = now
        if not claim.confirmed:
            self._store(claim, self._holdings[owner].provisional, self._max_provisional)
        return True

    def confirm(self, key: bytes, owner: OwnerT, now: float) -> bool:
        """Note that an owner has validated a path. Return True if the path is this owner's now."""
        claim = self._claims.get(key)
        if claim is None or claim.owner != owner:
            claim = self._claim(key, owner, now)
            if claim is None:
                return False
        claim.last_received = now
        claim.confirmed = True
        holdings = self._holdings[owner]
        holdings.provisional.pop(key, None)
        self._store(claim, holdings.confirmed, self._max_confirmed)
        return True

    def release(self, key: bytes, owner: OwnerT) -> bool:
        """End an owner's claim. Return True if it had one."""
        claim = self._claims.get(key)
        if claim is None or claim.owner != owner:
            return False
        self._end(claim)
        return True

    def release_all(self, owner: OwnerT) -> None:
        """End every claim of an owner."""
        holdings = self._holdings.get(owner)
        if holdings is not None:
            for claim in (*holdings.provisional.values(), *holdings.confirmed.values()):
                self._end(claim)

    def transfer(self, owner: OwnerT, successor: OwnerT, now: float) -> None:
        """Transfer every claim of an owner to its successor, as if received just now."""
        holdings = self._holdings.pop(owner, None)
        if holdings is None:
            return
        kept = self._holdings.setdefault(successor, _Holdings())
        for claim in (*holdings.provisional.values(), *holdings.confirmed.values()):
            claim.owner, claim.last_received = successor, now
            if claim.confirmed:
                self._store(claim, kept.confirmed, self._max_confirmed)
            else:
                self._store(claim, kept.provisional, self._max_provisional)

    def expire(self, now: float) -> None:
        """End the claims whose owner has been silent too long. Calls within `EXPIRE_INTERVAL` cost nothing."""
        if now < self._expire_at:
            return
        self._expire_at = now + EXPIRE_INTERVAL
        for holdings in list(self._holdings.values()):
            self._expire_oldest(holdings.provisional, now - PROVISIONAL_SECONDS)
            if self._silent_seconds < inf:
                for claim in [c for c in holdings.confirmed.values() if c.last_received <= now - self._silent_seconds]:
                    self.counters.expired += 1
                    self._end(claim)

    def _claim(self, key: bytes, owner: OwnerT, now: float) -> Claim[OwnerT] | None:
        """Give a path that is free, or may be taken over, to a new owner."""
        if not self.may_answer(key, owner, now):
            self.counters.refused += 1
            return None
        previous = self._claims.get(key)
        if previous is not None:
            self.counters.taken += 1
            self._end(previous)
        if owner not in self._holdings:
            self._holdings[owner] = _Holdings()
        claim = self._claims[key] = self._begin(key, owner, now)
        return claim

    def _begin(self, key: bytes, owner: OwnerT, now: float) -> Claim[OwnerT]:
        return Claim(key, owner, now)

    def _end(self, claim: Claim[OwnerT]) -> None:
        del self._claims[claim.key]
        holdings = self._holdings[claim.owner]
        del (holdings.confirmed if claim.confirmed else holdings.provisional)[claim.key]
        if not holdings.confirmed and not holdings.provisional:
            del self._holdings[claim.owner]

    def _store(self, claim: Claim[OwnerT], claims: dict[bytes, Claim[OwnerT]], limit: int) -> None:
        """Put a claim last among its owner's claims, and evict the first if there are more than `limit`."""
        claims.pop(claim.key, None)
        claims[claim.key] = claim
        if len(claims) > limit:
            self.counters.evicted += 1
            self._end(next(iter(claims.values())))

    def _expire_oldest(self, claims: dict[bytes, Claim[OwnerT]], before: float) -> None:
        while claims:
            claim = next(iter(claims.values()))
            if claim.last_received > before:
                return
            self.counters.expired += 1
            self._end(claim)
