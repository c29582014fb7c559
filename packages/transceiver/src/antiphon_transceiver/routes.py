"""Which relay leads to each path of a call."""

from collections.abc import Iterable

from antiphon_common.core import Path
from antiphon_transceiver.relays import Address, Relays


class Route:
    """How to reach a path: the relay by which something authenticated came from there last, and the header for it."""

    __slots__ = ("header", "path", "relay")

    def __init__(self, path: Path, relay: Address, header: bytes) -> None:
        self.path = path
        self.relay = relay
        self.header = header


def reroute(routes: Iterable[Route], relays: Relays) -> int:
    """Give routes by which nothing can leave another relay of the same ingress, where there is one; return how many
    were changed."""
    changed = 0
    stand_ins: dict[tuple[Address, int], Address | None] = {}
    for route in routes:
        lost, ingress = route.relay, route.path.ingress
        if relays.serves(lost, ingress):
            continue
        if (lost, ingress) not in stand_ins:
            stand_ins[lost, ingress] = relays.instead_of(lost, ingress)
        stand_in = stand_ins[lost, ingress]
        if stand_in is not None:
            route.relay = stand_in
            changed += 1
    return changed
