"""Who owns a path: the one rule that relays keep for transceivers, and transceivers for their sessions.

| a path is | written by | until |
|---|---|---|
| provisional | an owner's answer; the newest that answers has it | no answer came for `PROVISIONAL_SECONDS` |
| confirmed | its owner, once the path is proved | released; or, where that is allowed, its owner fell silent |

A client's packet never writes here, so spoofed sources fill no table, lock nobody out and steal no path.
"""

from collections.abc import Hashable
from math import inf
from typing import Generic, TypeVar

OwnerT = TypeVar("OwnerT", bound=Hashable)

PROVISIONAL_SECONDS = 10.0
"""A set-up that has proved nothing in this time has failed: DTLS repeats a flight after at most a second."""
MAX_PROVISIONAL = 1024
"""Provisional paths of one owner. Its oldest gives way to a new one, so that no flood locks anybody out."""
MAX_CONFIRMED = 8192
"""Confirmed paths of one owner: several for each call that one process can hold."""
EXPIRE_INTERVAL = 1.0
"""Seconds between two looks for what has expired."""


class Claim(Generic[OwnerT]):
    """One owner's hold on one path; `heard` is when the owner last said so, or sent something."""

    __slots__ = ("confirmed", "heard", "key", "owner")

    def __init__(self, key: bytes, owner: OwnerT, now: float) -> None:
        self.key = key
        self.owner = owner
        self.heard = now
        self.confirmed = False


class OwnershipCounters:
    """Claims that ended without a release: `evicted` by a cap, `expired`, `taken` by another owner. `refused` counts
    answers and confirmations on another owner's confirmed path."""

    __slots__ = ("evicted", "expired", "refused", "taken")

    def __init__(self) -> None:
        self.evicted = 0
        self.expired = 0
        self.refused = 0
        self.taken = 0


class _Holdings(Generic[OwnerT]):
    """The claims of one owner, those written longest ago first."""

    __slots__ = ("confirmed", "provisional")

    def __init__(self) -> None:
        self.provisional: dict[bytes, Claim[OwnerT]] = {}
        self.confirmed: dict[bytes, Claim[OwnerT]] = {}


class OwnershipTable(Generic[OwnerT]):
    """Paths, by their 22 encoded bytes, and their owners.

    After `takeover_seconds` of an owner's silence another may answer on its confirmed path; after `silent_seconds` the
    path is nobody's. By default only a release ends a confirmed path. A subclass that keeps more of each path
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
        """How many of the paths are confirmed."""
        return sum(len(holdings.confirmed) for holdings in self._holdings.values())

    def lookup(self, key: bytes) -> OwnerT | None:
        """Return the owner to whom packets of a path go."""
        claim = self._claims.get(key)
        return None if claim is None else claim.owner

    def is_confirmed(self, key: bytes, owner: OwnerT) -> bool:
        """Whether a path is confirmed, and this owner's."""
        claim = self._claims.get(key)
        return claim is not None and claim.confirmed and claim.owner == owner

    def may_answer(self, key: bytes, owner: OwnerT, now: float) -> bool:
        """Whether `answered` would be heard: the path is not confirmed for another owner."""
        claim = self._claims.get(key)
        return (
            claim is None or not claim.confirmed or claim.owner == owner or now - claim.heard >= self._takeover_seconds
        )

    def answered(self, key: bytes, owner: OwnerT, now: float) -> bool:
        """Note that an owner sends on a path; return whether the path is its own now."""
        claim = self._claims.get(key)
        if claim is None or claim.owner != owner:
            claim = self._claim(key, owner, now)
            if claim is None:
                return False
        claim.heard = now
        if not claim.confirmed:
            self._store(claim, self._holdings[owner].provisional, self._max_provisional)
        return True

    def confirm(self, key: bytes, owner: OwnerT, now: float) -> bool:
        """Note that an owner has proved a path; return whether the path is its own now."""
        claim = self._claims.get(key)
        if claim is None or claim.owner != owner:
            claim = self._claim(key, owner, now)
            if claim is None:
                return False
        claim.heard = now
        claim.confirmed = True
        holdings = self._holdings[owner]
        holdings.provisional.pop(key, None)
        self._store(claim, holdings.confirmed, self._max_confirmed)
        return True

    def release(self, key: bytes, owner: OwnerT) -> bool:
        """End an owner's claim; return whether there was one."""
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

    def hand_over(self, owner: OwnerT, successor: OwnerT, now: float) -> None:
        """Make every claim of an owner its successor's, as if that had just been heard."""
        holdings = self._holdings.pop(owner, None)
        if holdings is None:
            return
        heir = self._holdings.setdefault(successor, _Holdings())
        for claim in (*holdings.provisional.values(), *holdings.confirmed.values()):
            claim.owner, claim.heard = successor, now
            if claim.confirmed:
                self._store(claim, heir.confirmed, self._max_confirmed)
            else:
                self._store(claim, heir.provisional, self._max_provisional)

    def expire(self, now: float) -> None:
        """End what has been silent for too long; cheap when called too often."""
        if now < self._expire_at:
            return
        self._expire_at = now + EXPIRE_INTERVAL
        for holdings in list(self._holdings.values()):
            self._expire_oldest(holdings.provisional, now - PROVISIONAL_SECONDS)
            if self._silent_seconds < inf:
                for claim in [c for c in holdings.confirmed.values() if c.heard <= now - self._silent_seconds]:
                    self.counters.expired += 1
                    self._end(claim)

    def _claim(self, key: bytes, owner: OwnerT, now: float) -> Claim[OwnerT] | None:
        """Give a path that is free, or may be taken, to a new owner."""
        if not self.may_answer(key, owner, now):
            self.counters.refused += 1
            return None
        loser = self._claims.get(key)
        if loser is not None:
            self.counters.taken += 1
            self._end(loser)
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
        """Put a claim last among its owner's, and end the first when that is one too many."""
        claims.pop(claim.key, None)
        claims[claim.key] = claim
        if len(claims) > limit:
            self.counters.evicted += 1
            self._end(next(iter(claims.values())))

    def _expire_oldest(self, claims: dict[bytes, Claim[OwnerT]], before: float) -> None:
        while claims:
            claim = next(iter(claims.values()))
            if claim.heard > before:
                return
            self.counters.expired += 1
            self._end(claim)
