"""The relays that send HELLO: which of them are live, and by which ingress.

| a relay is | from | then |
|---|---|---|
| new | a HELLO with an unknown boot id | it is sent every confirmed path of its ingresses, and the claims |
| live | anything received from it in the last `SILENT_AFTER` | it is sent what changes, and all again periodically |
| silent | nothing received for `SILENT_AFTER` | another relay stands in; where there is none, the ingress is lost |
| forgotten | nothing received for `FORGET_AFTER` | if it returns, it counts as new |

A relay that never sends HELLO is not in the table. It is used as long as packets come by it.
"""

from collections import deque
from collections.abc import Collection, Iterator
from hmac import compare_digest
from math import inf

import msgspec

from antiphon_common.link import VERIFIED_SECONDS, RelayHello

Address = tuple[str, int]
"""Host and port of a relay's link socket."""

SILENT_AFTER = 0.1
"""Seconds: a relay sends HELLO every 25 ms, and three may get lost."""
SUSPECT_AFTER = SILENT_AFTER / 2
"""Seconds of silence after which a relay does not stand in for another: the workers of a host die together."""
FORGET_AFTER = 1.0
"""Seconds of silence in which messages to a relay may have overflowed its socket."""

MAX_RELAYS = 256
"""Workers of all relays of a cluster. Their HELLOs alone are 10,000 datagrams a second."""


class RelayBegan(msgspec.Struct, frozen=True):
    """A relay appeared, or started again. It has no state yet."""

    relay: Address


class RelaySilenced(msgspec.Struct, frozen=True):
    """Nothing was received from a live relay for `SILENT_AFTER` seconds."""

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


TableEvent = RelayBegan | RelaySilenced | AddressMoved | IngressLost | IngressFound


class RelayTableCounters:
    """What happened to relays; `refused` counts HELLOs of more than `MAX_RELAYS`."""

    __slots__ = ("began", "forgotten", "hellos", "ingresses_lost", "refused", "silenced")

    def __init__(self) -> None:
        self.hellos = 0
        self.began = 0
        self.refused = 0
        self.silenced = 0
        self.forgotten = 0
        self.ingresses_lost = 0


class _Entry:
    """One relay of the table."""

    __slots__ = (
        "address",
        "away",
        "boot_id",
        "hello",
        "hello_until",
        "ingresses",
        "last_packet",
        "last_received",
        "silent",
    )

    def __init__(self, address: Address, hello: RelayHello) -> None:
        self.address = address
        self.boot_id = hello.boot_id
        self.ingresses = hello.ingresses
        self.away = hello.away
        self.hello = b""
        self.hello_until = -inf
        self.last_received = -inf
        self.last_packet = -inf
        """When the last packet of a client came by it. Only the relay that holds a shared address gets any."""
        self.silent = True


class RelayTable:
    """The relays by address and by ingress. Feed it HELLOs and the addresses that packets come from; times in seconds.

    Call `handle_timeout` at `silent_at`, and take `events` out. It iterates over the addresses of its relays.
    """

    def __init__(self) -> None:
        self.counters = RelayTableCounters()
        self._entries: dict[Address, _Entry] = {}
        self._by_ingress: dict[int, dict[Address, _Entry]] = {}
        self._lost: set[int] = set()
        """Ingress ids, which have 16 bits, of paths or of relays that are forgotten."""
        self.silent_at = inf
        """When the next relay falls silent or is forgotten; infinity for never."""
        self.events: deque[TableEvent] = deque()
        """What happened to relays, oldest first. Take each out."""

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Address]:
        return iter(self._entries)

    def __contains__(self, address: Address) -> bool:
        return address in self._entries

    @property
    def live(self) -> int:
        """How many relays are not silent."""
        return sum(not entry.silent for entry in self._entries.values())

    @property
    def ingresses(self) -> Collection[int]:
        """The ingresses that have any relay."""
        return self._by_ingress.keys()

    def at_ingress(self, ingress: int) -> Collection[Address]:
        """Return the relays of an ingress."""
        return self._by_ingress.get(ingress, {}).keys()

    def ingresses_of(self, address: Address) -> Collection[int]:
        """Return the ingresses of a relay of the table."""
        return self._entries[address].ingresses

    def is_live(self, address: Address) -> bool:
        """Whether a relay is in the table, and not silent."""
        entry = self._entries.get(address)
        return entry is not None and not entry.silent

    def serves(self, address: Address, ingress: int) -> bool:
        """Whether packets can leave an ingress by a relay: it lives, and has the ingress's address."""
        entry = self._entries.get(address)
        return entry is not None and not entry.silent and ingress not in entry.away

    def stand_in(self, lost: Address, ingress: int) -> Address | None:
        """Return the live relay of an ingress that best replaces a lost one, or None. A relay that lives and only lost
        the shared address is replaced by the relay that has it.

        Without shared addresses a relay of the same host is preferred, then the one by which the latest packet came.
        """
        live = (entry for entry in self._by_ingress.get(ingress, {}).values() if not entry.silent)
        latest = max((entry.last_received for entry in self._entries.values()), default=-inf)
        best = max(
            live,
            key=lambda entry: (
                entry.last_received > latest - SUSPECT_AFTER,
                ingress not in entry.away,
                entry.address[0] == lost[0],
                entry.last_packet,
            ),
            default=None,
        )
        if best is None or (ingress in best.away and self.is_live(lost)):
            return None
        return best.address

    # Input

    def receive_hello(self, hello: RelayHello, address: Address, now: float, datagram: bytes = b"") -> bool:
        """Take an authenticated HELLO from the address it came from; return whether the relay is new.

        `repeats_hello` recognizes the same `datagram` from now on.
        """
        self.counters.hellos += 1
        entry = self._entries.get(address)
        began = entry is None or entry.boot_id != hello.boot_id or entry.ingresses != hello.ingresses
        if entry is None or began:
            if entry is not None:
                self._forget(entry)
            elif len(self._entries) >= MAX_RELAYS and not self._make_room():
                self.counters.refused += 1
                return False
            entry = self._begin(address, hello)
        elif entry.away != hello.away:
            self.events.extend(AddressMoved(ingress) for ingress in set(entry.away).symmetric_difference(hello.away))
            entry.away = hello.away
        entry.hello = datagram
        entry.hello_until = now + VERIFIED_SECONDS
        self._received(entry, now)
        return began

    def repeats_hello(self, datagram: bytes, address: Address, now: float) -> bool:
        """Whether a datagram equals the HELLO of this address that was authenticated not long ago; if so, it is taken.
        40 a second come from each relay."""
        entry = self._entries.get(address)
        if entry is None or now >= entry.hello_until or not compare_digest(entry.hello, datagram):
            return False
        self.counters.hellos += 1
        self._received(entry, now)
        return True

    def receive_packet(self, address: Address, now: float) -> None:
        """Note that a relay forwarded a client's packet; that proves it live, as a HELLO does."""
        entry = self._entries.get(address)
        if entry is not None:
            entry.last_packet = now
            self._received(entry, now)

    def handle_timeout(self, now: float) -> None:
        """Find the relays that fell silent, and forget those that have been silent for long."""
        if now < self.silent_at:
            return
        silenced = []
        for entry in list(self._entries.values()):
            if entry.last_received + FORGET_AFTER <= now:
                self.counters.forgotten += 1
                self._forget(entry)
            if not entry.silent and entry.last_received + SILENT_AFTER <= now:
                entry.silent = True
                silenced.append(entry)
        for entry in silenced:
            self.counters.silenced += 1
            self.events.append(RelaySilenced(entry.address))
        for ingress in dict.fromkeys(ingress for entry in silenced for ingress in entry.ingresses):
            self._check_ingress(ingress)
        self.silent_at = min(map(_deadline, self._entries.values()), default=inf)

    def _begin(self, address: Address, hello: RelayHello) -> _Entry:
        entry = self._entries[address] = _Entry(address, hello)
        for ingress in hello.ingresses:
            self._by_ingress.setdefault(ingress, {})[address] = entry
        self.counters.began += 1
        self.events.append(RelayBegan(address))
        return entry

    def _received(self, entry: _Entry, now: float) -> None:
        entry.last_received = now
        if entry.silent:
            entry.silent = False
            self.silent_at = min(self.silent_at, now + SILENT_AFTER)
            for ingress in self._lost.intersection(entry.ingresses):
                self._lost.remove(ingress)
                self.events.append(IngressFound(ingress, entry.address))

    def _check_ingress(self, ingress: int) -> None:
        """Report an ingress as lost when all its relays are silent."""
        if all(entry.silent for entry in self._by_ingress.get(ingress, {}).values()) and ingress not in self._lost:
            self._lost.add(ingress)
            self.counters.ingresses_lost += 1
            self.events.append(IngressLost(ingress))

    def _forget(self, entry: _Entry) -> None:
        del self._entries[entry.address]
        for ingress in set(entry.ingresses):
            others = self._by_ingress[ingress]
            del others[entry.address]
            if not others:
                del self._by_ingress[ingress]

    def _make_room(self) -> bool:
        """Forget the relay that has been silent for longest. A live relay is not displaced."""
        oldest = min(self._entries.values(), key=lambda entry: entry.last_received)
        if oldest.silent:
            self._forget(oldest)
        return oldest.silent


def _deadline(entry: _Entry) -> float:
    return entry.last_received + (FORGET_AFTER if entry.silent else SILENT_AFTER)
