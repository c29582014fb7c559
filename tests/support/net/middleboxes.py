"""What stands between a client and a relay and decides about addresses: NAT, and load balancers that spread packets.

Like the impairment, all of it knows neither sockets nor time.
"""

from collections.abc import Hashable, Sequence
from random import Random
from typing import Generic, NamedTuple, TypeVar
from zlib import crc32

Host = TypeVar("Host", bound=Hashable)
Flow = TypeVar("Flow", bound=Hashable)
Target = TypeVar("Target")

MAX_MAPPINGS = 4096
"""Of a NAT: more than any test opens; the oldest goes first."""

FIRST_PORT, LAST_PORT = 20_000, 59_999


class Mapping(NamedTuple, Generic[Host]):
    """How one inside port looks from outside, and which targets may answer it."""

    inside: tuple[Host, int]
    public: tuple[Host, int]
    targets: set[tuple[Host, int]]


class Nat(Generic[Host]):
    """Hides hosts behind one public address, as a home router does: a port keeps its public port whatever it talks to,
    and is reached only by whom it talked to (RFC 4787: endpoint-independent mapping, address and port-dependent
    filtering). One for each transport protocol."""

    def __init__(self, public: Host, random: Random) -> None:
        self.public = public
        self._random = random
        self._outward: dict[tuple[Host, int], Mapping[Host]] = {}
        self._inward: dict[tuple[Host, int], Mapping[Host]] = {}

    def outward(self, inside: tuple[Host, int], target: tuple[Host, int]) -> tuple[Host, int]:
        """Return the public address and port by which `target` sees an inside port, opening it if need be."""
        mapping = self._outward.get(inside)
        if mapping is None:
            mapping = self._open(inside)
        mapping.targets.add(target)
        return mapping.public

    def inward(self, public: tuple[Host, int], source: tuple[Host, int]) -> tuple[Host, int] | None:
        """Return the inside port that a packet from `source` reaches, if it may."""
        mapping = self._inward.get(public)
        return mapping.inside if mapping is not None and source in mapping.targets else None

    def rebind(self, public: Host | None = None) -> None:
        """Forget every mapping, and from then on use another public address if one is given."""
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
    """A load balancer in front of several hosts with one address. With `spray` every packet goes to a host of its own
    choice; otherwise a flow stays with its host while the set of hosts stays the same."""

    def __init__(self, random: Random, *, spray: bool = False) -> None:
        self.spray = spray
        self._random = random
        self._salt = random.getrandbits(32)

    def choose(self, flow: bytes, targets: Sequence[Target]) -> Target:
        """Choose one of the hosts that are up for a packet of a flow."""
        if len(targets) == 1:
            return targets[0]
        if self.spray:
            return self._random.choice(targets)
        # Not Python's own hash, which differs from process to process.
        return targets[crc32(flow, self._salt) % len(targets)]
