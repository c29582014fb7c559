"""Transceivers whose calls have been handed over as a whole: one entry each, kept while somebody repeats it."""

from antiphon_common.link import Moved, Owner
from antiphon_common.routing import ClusterNetworks, RouteToken
from antiphon_common.sockaddr import encode_address

MAX_MOVES = 256
"""Entries: more transceivers than are rolled at once. Beyond them a new one is refused."""
MOVED_SECONDS = 60.0
"""How long an entry outlives its last repetition; they come every five seconds."""
MAX_HOPS = 4
"""Entries followed from one owner to the next: a successor may have handed over its calls too."""


class Moves:
    """Where the calls of each owner are now. Owners are resolved to encoded link addresses by `networks`."""

    def __init__(self, networks: ClusterNetworks) -> None:
        self._networks = networks
        self._successors: dict[Owner, tuple[Owner, float]] = {}
        self._origins: dict[bytes, Owner] = {}
        """The same origins by their addresses."""

    def __len__(self) -> int:
        return len(self._successors)

    def learn(self, moved: Moved, source: bytes, now: float) -> tuple[bytes, bytes] | None:
        """Take an entry from the link address `source`; return the addresses of the origin and of who has its calls
        now, or None when it is refused: only origin and successor may say so."""
        origin, successor = moved
        addresses = self.resolve(origin), self.resolve(successor)
        if origin == successor or source not in addresses or not all(addresses):
            return None
        if origin not in self._successors and len(self._successors) >= MAX_MOVES:
            return None
        if self.follow(successor) == origin:
            self._forget(successor)  # the calls come back
        self._successors[origin] = successor, now + MOVED_SECONDS
        self._origins[addresses[0]] = origin
        return addresses[0], self.resolve(self.follow(origin))

    def follow(self, owner: Owner) -> Owner:
        """Return who has the calls whose tokens name `owner`."""
        for _ in range(MAX_HOPS):
            entry = self._successors.get(owner)
            if entry is None:
                break
            owner = entry[0]
        return owner

    def follow_address(self, address: bytes) -> bytes:
        """Do the same for an encoded link address."""
        origin = self._origins.get(address)
        return address if origin is None else self.resolve(self.follow(origin))

    def resolve(self, owner: Owner) -> bytes:
        """Return an owner's encoded link address; empty when no network has it."""
        resolved = self._networks.resolve(RouteToken(*owner, nonce=0))
        return encode_address(*resolved) if resolved else b""

    def expire(self, now: float) -> bool:
        """Forget what nobody has repeated; return whether there was any."""
        ended = [origin for origin, (_, until) in self._successors.items() if until <= now]
        for origin in ended:
            self._forget(origin)
        return bool(ended)

    def _forget(self, origin: Owner) -> None:
        if self._successors.pop(origin, None) is not None:
            self._origins.pop(self.resolve(origin), None)
