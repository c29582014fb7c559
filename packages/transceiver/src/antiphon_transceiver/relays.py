"""The relays as one transceiver knows them: which of them live, by which ingress, and what each has to be told.

| a relay is | from | then |
|---|---|---|
| new | a HELLO with a boot id that is not known | it is told every confirmed path of its ingresses, and what moved |
| live | anything of it in the last `SILENT_AFTER` | it is told what changes, and all again each `REPEAT_INTERVAL` |
| silent | nothing for `SILENT_AFTER` | its paths go by a neighbour; where there is none, the ingress is lost |
| forgotten | nothing for `FORGET_AFTER` | what it missed meanwhile it is told as a new one |

A relay that never says HELLO is none of these, and is used as long as packets come by it.
"""

from collections import deque
from collections.abc import Collection, Iterable
from hmac import compare_digest
from itertools import takewhile
from math import inf
from typing import NamedTuple, TypeVar

import msgspec

from antiphon_common.core import Path
from antiphon_common.errors import LocalProtocolError
from antiphon_common.link import (
    MAX_ANNOUNCED_PATHS,
    VERIFIED_SECONDS,
    Announce,
    Confirm,
    LinkMessage,
    Moved,
    RelayHello,
    Release,
)
from antiphon_common.routing import Owner

Address = tuple[str, int]
"""Host and port of a relay's link socket."""

SILENT_AFTER = 0.1
"""Seconds: a relay says HELLO every 25 ms, and three may get lost."""
DOUBTFUL_AFTER = SILENT_AFTER / 2
"""Seconds of silence after which a relay does not stand in for another: the workers of a host die together."""
FORGET_AFTER = 1.0
"""Seconds of silence in which messages to a relay may have overflowed its socket."""
REPEAT_INTERVAL = 5.0
"""Seconds after which a path is announced again: twice before another transceiver could take it from a relay."""
REPEAT_STEP = 0.25
"""Seconds in which repetitions are gathered, so that many paths share a datagram."""

MAX_RELAYS = 256
"""Workers of all relays of a cluster. Their HELLOs alone are 10,000 datagrams a second."""
MAX_MOVED = 64
"""Transceivers whose calls one successor answers for: more than follow each other within the longest call."""


class RelayBegan(msgspec.Struct, frozen=True):
    """A relay is there that knows nothing yet."""

    relay: Address


class RelaySilenced(msgspec.Struct, frozen=True):
    """A live relay was not heard for `SILENT_AFTER` seconds."""

    relay: Address


class AddressMoved(msgspec.Struct, frozen=True):
    """The shared address of an ingress has left a live relay, or has come to one."""

    ingress: int


class IngressLost(msgspec.Struct, frozen=True):
    """The last live relay of an ingress fell silent."""

    ingress: int


class IngressFound(msgspec.Struct, frozen=True):
    """A lost ingress has a live relay again."""

    ingress: int
    relay: Address


Event = RelayBegan | RelaySilenced | AddressMoved | IngressLost | IngressFound
Key = TypeVar("Key", Path, Owner)


class Notice(NamedTuple):
    """A message, and the relays it goes to."""

    message: LinkMessage
    relays: tuple[Address, ...]


class RelayCounters:
    """What happened to relays; `announced` counts paths in ANNOUNCEs, `refused` HELLOs of more than `MAX_RELAYS`."""

    __slots__ = ("announced", "began", "forgotten", "hellos", "ingresses_lost", "refused", "silenced")

    def __init__(self) -> None:
        self.hellos = 0
        self.began = 0
        self.refused = 0
        self.silenced = 0
        self.forgotten = 0
        self.ingresses_lost = 0
        self.announced = 0


class _Relay:
    __slots__ = ("address", "away", "boot_id", "delivered", "heard", "hello", "hello_until", "ingresses", "silent")

    def __init__(self, address: Address, hello: RelayHello) -> None:
        self.address = address
        self.boot_id = hello.boot_id
        self.ingresses = hello.ingresses
        self.away = hello.away
        self.hello = b""
        self.hello_until = -inf
        self.heard = -inf
        self.delivered = -inf
        """When the last packet of a client came by it: only who holds a shared address gets any."""
        self.silent = True


class Relays:
    """Every relay that says HELLO to `owner`, and every path that they have to know. No IO; seconds on one clock."""

    def __init__(self, owner: Owner) -> None:
        self.counters = RelayCounters()
        self._owner = owner
        self._relays: dict[Address, _Relay] = {}
        self._by_ingress: dict[int, dict[Address, _Relay]] = {}
        self._new_relays: dict[Address, _Relay] = {}
        self._paths: dict[int, dict[Path, float]] = {}
        """Confirmed paths by ingress, and when each was last announced; the one that is due first comes first."""
        self._new_paths: dict[Path, Address] = {}
        """Those that nobody was told of, and the relay that was told to confirm it; empty after each turn."""
        self._moved: dict[Owner, float] = {}
        self._lost: set[int] = set()
        """Ingress ids, which have 16 bits, of paths or of relays that are forgotten."""
        self._announce_at = inf
        self._silent_at = inf
        self._repeat_at = inf
        self._notices: deque[Notice] = deque()
        self._events: deque[Event] = deque()

    def __len__(self) -> int:
        return len(self._relays)

    @property
    def live(self) -> int:
        """How many relays are not silent."""
        return sum(not relay.silent for relay in self._relays.values())

    @property
    def moved(self) -> Collection[Owner]:
        """The transceivers whose calls are announced as ours."""
        return self._moved.keys()

    def is_live(self, address: Address) -> bool:
        relay = self._relays.get(address)
        return relay is not None and not relay.silent

    def serves(self, address: Address, ingress: int) -> bool:
        """Whether packets can leave an ingress by a relay: it lives, and has the ingress's address."""
        relay = self._relays.get(address)
        return relay is not None and not relay.silent and ingress not in relay.away

    def instead_of(self, lost: Address, ingress: int) -> Address | None:
        """Return the live relay of an ingress that best stands in for one that is lost, if there is any. For one that
        lives and only lost the address, that is one that has it.

        Where no relay says that it has a shared address, one of the same host may, and otherwise who was given packets
        last.
        """
        live = (relay for relay in self._by_ingress.get(ingress, {}).values() if not relay.silent)
        latest = max((relay.heard for relay in self._relays.values()), default=-inf)
        best = max(
            live,
            key=lambda relay: (
                relay.heard > latest - DOUBTFUL_AFTER,
                ingress not in relay.away,
                relay.address[0] == lost[0],
                relay.delivered,
            ),
            default=None,
        )
        if best is None or (ingress in best.away and self.is_live(lost)):
            return None
        return best.address

    # What relays say

    def receive_hello(self, hello: RelayHello, address: Address, now: float, datagram: bytes = b"") -> None:
        """Take a HELLO, authenticated, from the address it came from. The same `datagram` will be known again."""
        self.counters.hellos += 1
        relay = self._relays.get(address)
        if relay is None or relay.boot_id != hello.boot_id or relay.ingresses != hello.ingresses:
            if relay is not None:
                self._forget(relay)
            elif len(self._relays) >= MAX_RELAYS and not self._make_room():
                self.counters.refused += 1
                return
            relay = self._begin(address, hello, now)
        elif relay.away != hello.away:
            self._events.extend(AddressMoved(ingress) for ingress in set(relay.away).symmetric_difference(hello.away))
            relay.away = hello.away
        relay.hello = datagram
        relay.hello_until = now + VERIFIED_SECONDS
        self._hear(relay, now)

    def repeats_hello(self, datagram: bytes, address: Address, now: float) -> bool:
        """Whether a datagram is, to the byte, the HELLO of this address that was authenticated not long ago; if so, it
        is taken. Forty a second come from each relay."""
        relay = self._relays.get(address)
        if relay is None or now >= relay.hello_until or not compare_digest(relay.hello, datagram):
            return False
        self.counters.hellos += 1
        self._hear(relay, now)
        return True

    def delivered(self, address: Address, now: float) -> None:
        """Note that a relay handed on a client's packet; it counts as a sign of life."""
        relay = self._relays.get(address)
        if relay is not None:
            relay.delivered = now
            self._hear(relay, now)

    def _begin(self, address: Address, hello: RelayHello, now: float) -> _Relay:
        relay = self._relays[address] = self._new_relays[address] = _Relay(address, hello)
        for ingress in hello.ingresses:
            self._by_ingress.setdefault(ingress, {})[address] = relay
        self.counters.began += 1
        self._events.append(RelayBegan(address))
        self._announce_at = min(self._announce_at, now)
        self._repeat_at = min(self._repeat_at, now + REPEAT_STEP)
        return relay

    def _hear(self, relay: _Relay, now: float) -> None:
        relay.heard = now
        if relay.silent:
            relay.silent = False
            self._silent_at = min(self._silent_at, now + SILENT_AFTER)
            for ingress in self._lost.intersection(relay.ingresses):
                self._lost.remove(ingress)
                self._events.append(IngressFound(ingress, relay.address))

    def _forget(self, relay: _Relay) -> None:
        del self._relays[relay.address]
        self._new_relays.pop(relay.address, None)
        for ingress in set(relay.ingresses):
            neighbours = self._by_ingress[ingress]
            del neighbours[relay.address]
            if not neighbours:
                del self._by_ingress[ingress]

    def _make_room(self) -> bool:
        """Forget the relay that is silent for longest; one that lives is not displaced."""
        oldest = min(self._relays.values(), key=lambda relay: relay.heard)
        if oldest.silent:
            self._forget(oldest)
        return oldest.silent

    # What relays are to know

    def confirmed(self, path: Path, relay: Address, now: float) -> None:
        """Have the relay that a path was proved by confirm it; all others of the ingress learn it once, and again in
        the repetitions."""
        self._notices.append(Notice(Confirm(path), (relay,)))
        paths = self._paths.setdefault(path.ingress, {})
        if path not in paths:
            paths[path] = now
            self._new_paths[path] = relay
            self._announce_at = min(self._announce_at, now)

    def released(self, path: Path, relay: Address | None) -> None:
        """Have every relay of the ingress give a path up, and `relay`, which may never have said HELLO."""
        told = dict.fromkeys(self._by_ingress.get(path.ingress, {}))
        if relay is not None:
            told[relay] = None
        if told:
            self._notices.append(Notice(Release(path), tuple(told)))
        self._new_paths.pop(path, None)
        paths = self._paths.get(path.ingress, {})
        if paths.pop(path, None) is not None and not paths:
            del self._paths[path.ingress]

    def claim_calls(self, previous: Owner, now: float) -> None:
        """Tell every relay, from now on, that the calls whose tokens name `previous` are ours.

        Raises `LocalProtocolError` for our own calls, and beyond `MAX_MOVED` previous owners.
        """
        if previous == self._owner:
            raise LocalProtocolError("these calls are this transceiver's already")
        if previous not in self._moved and len(self._moved) >= MAX_MOVED:
            raise LocalProtocolError(f"this transceiver answers for {MAX_MOVED} others already")
        self._moved.pop(previous, None)
        self._moved[previous] = now
        self._announce_moved([previous], self._relays)

    def stop_claiming(self, previous: Owner) -> bool:
        """Undo `claim_calls`; relays forget it by themselves. Return whether those calls were claimed."""
        return self._moved.pop(previous, None) is not None

    # Time and output

    def handle_timeout(self, now: float) -> None:
        """Announce what is new, repeat what was announced long ago, and judge who is silent."""
        if now >= self._announce_at:
            self._announce_at = inf
            self._tell_new_relays()
            self._announce_new_paths()
        if now >= self._repeat_at:
            self._repeat(now)
        if now >= self._silent_at:
            self._judge_silence(now)

    def poll_transmit(self) -> Notice | None:
        return self._notices.popleft() if self._notices else None

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        deadline = min(self._announce_at, self._silent_at, self._repeat_at)
        return None if deadline == inf else deadline

    def _tell_new_relays(self) -> None:
        new = self._new_relays
        for ingress in dict.fromkeys(ingress for relay in new.values() for ingress in relay.ingresses):
            told = [address for address in self._by_ingress[ingress] if address in new]
            self._announce(self._paths.get(ingress, {}), told)
        self._announce_moved(self._moved, new)
        self._new_relays = {}

    def _announce_new_paths(self) -> None:
        by_ingress: dict[int, list[Path]] = {}
        for path in self._new_paths:
            by_ingress.setdefault(path.ingress, []).append(path)
        for ingress, paths in by_ingress.items():
            confirming = {self._new_paths[path] for path in paths}
            told = [address for address in self._by_ingress.get(ingress, {}) if confirming != {address}]
            self._announce(paths, told)
        self._new_paths.clear()

    def _repeat(self, now: float) -> None:
        self._repeat_at = now + REPEAT_STEP if self._relays else inf
        for ingress, relays in self._by_ingress.items():
            self._announce(_take_due(self._paths.get(ingress, {}), now), relays)
        self._announce_moved(_take_due(self._moved, now), self._relays)

    def _announce(self, paths: Iterable[Path], relays: Iterable[Address]) -> None:
        told, announced = tuple(relays), tuple(paths)
        for start in range(0, len(announced) if told else 0, MAX_ANNOUNCED_PATHS):
            batch = announced[start : start + MAX_ANNOUNCED_PATHS]
            self.counters.announced += len(batch)
            self._notices.append(Notice(Announce(batch), told))

    def _announce_moved(self, owners: Iterable[Owner], relays: Iterable[Address]) -> None:
        told = tuple(relays)
        self._notices.extend(Notice(Moved(previous, self._owner), told) for previous in owners if told)

    def _judge_silence(self, now: float) -> None:
        silenced = []
        for relay in list(self._relays.values()):
            if relay.heard + FORGET_AFTER <= now:
                self.counters.forgotten += 1
                self._forget(relay)
            if not relay.silent and relay.heard + SILENT_AFTER <= now:
                relay.silent = True
                silenced.append(relay)
        for relay in silenced:
            self.counters.silenced += 1
            self._events.append(RelaySilenced(relay.address))
        for ingress in dict.fromkeys(ingress for relay in silenced for ingress in relay.ingresses):
            if all(relay.silent for relay in self._by_ingress.get(ingress, {}).values()) and ingress not in self._lost:
                self._lost.add(ingress)
                self.counters.ingresses_lost += 1
                self._events.append(IngressLost(ingress))
        deadlines = (relay.heard + (FORGET_AFTER if relay.silent else SILENT_AFTER) for relay in self._relays.values())
        self._silent_at = min(deadlines, default=inf)


def _take_due(announced: dict[Key, float], now: float) -> list[Key]:
    """Return what was announced longest ago and is due again, and put it last as announced now."""
    due = list(takewhile(lambda key: announced[key] + REPEAT_INTERVAL <= now, announced))
    for key in due:
        del announced[key]
        announced[key] = now
    return due
