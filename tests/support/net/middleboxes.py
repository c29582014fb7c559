"""Middleboxes between a client and a relay: NAT, and load balancers.

They have neither sockets nor clocks, as the impairment model.
"""

from collections.abc import Hashable, Sequence
from random import Random
from typing import Generic, NamedTuple, TypeVar
from zlib import crc32

Host = TypeVar("Host", bound=Hashable)
Flow = TypeVar("Flow", bound=Hashable)
Target = TypeVar("Target")

MAX_MAPPINGS = 4096
"""Mappings of one NAT: more than any test opens. The oldest is dropped first."""

FIRST_PORT, LAST_PORT = 20_000, 59_999


class Mapping(NamedTuple, Generic[Host]):
    """One inside port, its public port, and the targets whose packets the NAT accepts."""

    inside: tuple[Host, int]
    public: tuple[Host, int]
    targets: set[tuple[Host, int]]


class Nat(Generic[Host]):
    """A NAT as in a home router, with endpoint-independent mapping and address and port-dependent filtering
    (RFC 4787). Use one for each transport protocol."""

    def __init__(self, public: Host, random: Random) -> None:
        self.public = public
        self._random = random
        self._outward: dict[tuple[Host, int], Mapping[Host]] = {}
        self._inward: dict[tuple[Host, int], Mapping[Host]] = {}

    def outward(self, inside: tuple[Host, int], target: tuple[Host, int]) -> tuple[Host, int]:
        """Return the public endpoint of an inside endpoint that sends to `target`. Create a mapping if needed."""
        mapping = self._outward.get(inside)
        if mapping is None:
            mapping = self._open(inside)
        mapping.targets.add(target)
        return mapping.public

    def inward(self, public: tuple[Host, int], source: tuple[Host, int]) -> tuple[Host, int] | None:
        """Return the inside endpoint that a packet from `source` reaches, or None if the NAT drops it."""
        mapping = self._inward.get(public)
        return mapping.inside if mapping is not None and source in mapping.targets else None

    def rebind(self, public: Host | None = None) -> None:
        """Drop every mapping. Use another public address from now on if one is given."""
        self._outward.clear()
        self._inward.clear()
        if public is not None:
            self.public = public

    def _open(self, inside: tuple[Host, int]) -> Mapping[Host]:
        while len(self._outward) >= MAX_MAPPINGS:
            oldest = self._outward.pop(next(iter(self._outward)))
            del self._inward[oldest.public]
        port = self._random.randint(FIRST_PORT, LAST_PORT)
        while (self.public, port) in self._inward:
            port = self._random.randint(FIRST_PORT, LAST_PORT)
        mapping = Mapping(inside, (self.public, port), set())
        self._outward[inside] = self._inward[mapping.public] = mapping
        return mapping


class Spreader:
    """A load balancer in front of several hosts with one address.

    With `spray` it chooses a host for every packet. Otherwise a flow keeps its host while the set of hosts is the same.
    """

    def __init__(self, random: Random, *, spray: bool = False) -> None:
        self.spray = spray
        self._random = random
        self._salt = random.getrandbits(32)

    def choose(self, flow: bytes, targets: Sequence[Target]) -> Target:
        """Return one of the hosts that are up, for a packet of a flow."""
        if len(targets) == 1:
            return targets[0]
        if self.spray:
            return self._random.choice(targets)
        # Python's hash differs between processes.
        return targets[crc32(flow, self._salt) % len(targets)]
