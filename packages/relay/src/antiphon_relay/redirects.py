"""Redirects: transceivers whose calls have all moved to a successor. One entry each, kept while MOVED is repeated."""

from antiphon_common.link import Moved
from antiphon_common.routing import ClusterNetworks, Owner
from antiphon_common.sockaddr import encode_address

MAX_REDIRECTS = 256
"""Entries: more transceivers than are rolled at once. Beyond them a new one is refused."""
REDIRECT_SECONDS = 60.0
"""How long an entry outlives its last repetition; they come every five seconds."""
MAX_HOPS = 4
"""Entries followed from one owner to the next: a successor's calls may have moved on too."""


class Redirects:
    """The present owner of each moved owner's calls. `add` takes a MOVED message, `follow` looks an owner up.

    `networks` resolve owners to link addresses. Addresses are encoded (`antiphon_common.sockaddr`).
    """

    def __init__(self, networks: ClusterNetworks) -> None:
        self._networks = networks
        self._successors: dict[Owner, tuple[Owner, float]] = {}
        self._by_address: dict[bytes, Owner] = {}
        """The previous owners by their link addresses."""

    def __len__(self) -> int:
        return len(self._successors)

    def add(self, moved: Moved, source: bytes, now: float) -> tuple[bytes, bytes] | None:
        """Add or prolong an entry that the link address `source` sent.

        Return the addresses of the previous and of the present owner. Return None if the entry is refused: only the
        previous owner and the successor may send it.
        """
        previous, successor = moved
        addresses = self.resolve(previous), self.resolve(successor)
        if previous == successor or source not in addresses or not all(addresses):
            return None
        if previous not in self._successors and len(self._successors) >= MAX_REDIRECTS:
            return None
        if self.follow(successor) == previous:
            self._remove(successor)  # the calls return to an owner that they had before
        self._successors[previous] = successor, now + REDIRECT_SECONDS
        self._by_address[addresses[0]] = previous
        return addresses[0], self.resolve(self.follow(previous))

    def follow(self, owner: Owner) -> Owner:
        """Return the present owner of the calls whose tokens name `owner`."""
        for _ in range(MAX_HOPS):
            entry = self._successors.get(owner)
            if entry is None:
                break
            owner = entry[0]
        return owner

    def follow_address(self, address: bytes) -> bytes:
        """Return the link address of the present owner of the calls of `address`."""
        previous = self._by_address.get(address)
        return address if previous is None else self.resolve(self.follow(previous))

    def resolve(self, owner: Owner) -> bytes:
        """Return an owner's link address, or empty bytes when it is in no cluster's network."""
        resolved = self._networks.resolve(owner)
        return encode_address(*resolved) if resolved else b""

    def expire(self, now: float) -> bool:
        """Remove the entries that were not repeated; return whether there were any."""
        expired = [previous for previous, (_, until) in self._successors.items() if until <= now]
        for previous in expired:
            self._remove(previous)
        return bool(expired)

    def _remove(self, previous: Owner) -> None:
        if self._successors.pop(previous, None) is not None:
            self._by_address.pop(self.resolve(previous), None)
