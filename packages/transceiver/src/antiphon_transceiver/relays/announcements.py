"""What relays have to learn: the confirmed paths of this transceiver, and which previous owners' calls are its own.

The relay by which a path was validated confirms it. All others of the ingress are sent the path once, and again every
`REPEAT_INTERVAL`; a new relay is sent everything at once.
"""

from collections import deque
from collections.abc import Collection, Iterable
from itertools import takewhile
from math import inf
from typing import NamedTuple, TypeVar

from antiphon_common.core import Path
from antiphon_common.errors import LocalProtocolError
from antiphon_common.link import MAX_ANNOUNCED_PATHS, Announce, Confirm, LinkMessage, Moved, Release
from antiphon_common.routing import Owner
from antiphon_transceiver.relays.table import Address, RelayTable

REPEAT_INTERVAL = 5.0
"""Seconds after which a path is announced again: twice before another transceiver could take it from a relay."""
REPEAT_STEP = 0.25
"""Seconds for which repetitions are collected, so that many paths share a datagram."""

MAX_CLAIMED = 64
"""Previous owners whose calls one transceiver claims: more than follow each other within the longest call."""

Key = TypeVar("Key", Path, Owner)


class Notice(NamedTuple):
    """A message, and the relays it goes to."""

    message: LinkMessage
    relays: tuple[Address, ...]


class AnnouncementCounters:
    """Paths in ANNOUNCEs, each once for all relays that it is sent to."""

    __slots__ = ("announced",)

    def __init__(self) -> None:
        self.announced = 0


class Announcements:
    """The messages to the relays of `table`, all in the name of `owner`. Take `notices` out, and call
    `handle_timeout` at `announce_at` and at `repeat_at`."""

    def __init__(self, owner: Owner, table: RelayTable) -> None:
        self.owner = owner
        self.counters = AnnouncementCounters()
        self._table = table
        self._new_relays: dict[Address, None] = {}
        self._paths: dict[int, dict[Path, float]] = {}
        """Confirmed paths by ingress, and when each was last announced; the one that is due first comes first."""
        self._new_paths: dict[Path, Address] = {}
        """Paths not announced yet, and the relay that confirms each; empty after each `handle_timeout`."""
        self._claimed: dict[Owner, float] = {}
        self.announce_at = inf
        self.repeat_at = inf
        self.notices: deque[Notice] = deque()
        """What to send, oldest first. Take each out."""

    @property
    def claimed(self) -> Collection[Owner]:
        """The previous owners whose calls are announced as ours."""
        return self._claimed.keys()

    def begin(self, relay: Address, now: float) -> None:
        """Send everything to a new relay."""
        self._new_relays[relay] = None
        self.announce_at = min(self.announce_at, now)
        self.repeat_at = min(self.repeat_at, now + REPEAT_STEP)

    def confirm(self, path: Path, relay: Address, now: float) -> None:
        """Have the relay by which a path was validated confirm it, and announce it to the others of its ingress."""
        self.notices.append(Notice(Confirm(path), (relay,)))
        paths = self._paths.setdefault(path.ingress, {})
        if path not in paths:
            paths[path] = now
            self._new_paths[path] = relay
            self.announce_at = min(self.announce_at, now)

    def release(self, path: Path, relay: Address | None) -> None:
        """Have every relay of the ingress release a path, and `relay`, which may never have sent HELLO."""
        recipients = dict.fromkeys(self._table.at_ingress(path.ingress))
        if relay is not None:
            recipients[relay] = None
        if recipients:
            self.notices.append(Notice(Release(path), tuple(recipients)))
        self._new_paths.pop(path, None)
        paths = self._paths.get(path.ingress, {})
        if paths.pop(path, None) is not None and not paths:
            del self._paths[path.ingress]

    def claim_calls(self, previous: Owner, now: float) -> None:
        """Announce to every relay, from now on, that the calls whose tokens name `previous` are ours.

        Raises LocalProtocolError for our own calls, and beyond `MAX_CLAIMED` previous owners.
        """
        if previous == self.owner:
            raise LocalProtocolError("these calls are this transceiver's already")
        if previous not in self._claimed and len(self._claimed) >= MAX_CLAIMED:
            raise LocalProtocolError(f"this transceiver answers for {MAX_CLAIMED} others already")
        self._claimed.pop(previous, None)
        self._claimed[previous] = now
        self._announce_claims([previous], self._table)

    def stop_claiming(self, previous: Owner) -> bool:
        """Undo `claim_calls`; relays forget it by themselves. Return whether those calls were claimed."""
        return self._claimed.pop(previous, None) is not None

    def handle_timeout(self, now: float) -> None:
        """Announce what is new, and repeat what was announced long ago."""
        if now >= self.announce_at:
            self.announce_at = inf
            self._announce_to_new_relays()
            self._announce_new_paths()
        if now >= self.repeat_at:
            self._repeat(now)

    def _announce_to_new_relays(self) -> None:
        new = [relay for relay in self._new_relays if relay in self._table]
        for ingress in dict.fromkeys(ingress for relay in new for ingress in self._table.ingresses_of(relay)):
            recipients = [relay for relay in self._table.at_ingress(ingress) if relay in self._new_relays]
            self._announce(self._paths.get(ingress, {}), recipients)
        self._announce_claims(self._claimed, new)
        self._new_relays.clear()

    def _announce_new_paths(self) -> None:
        by_ingress: dict[int, list[Path]] = {}
        for path in self._new_paths:
            by_ingress.setdefault(path.ingress, []).append(path)
        for ingress, paths in by_ingress.items():
            confirming = {self._new_paths[path] for path in paths}
            recipients = [relay for relay in self._table.at_ingress(ingress) if confirming != {relay}]
            self._announce(paths, recipients)
        self._new_paths.clear()

    def _repeat(self, now: float) -> None:
        self.repeat_at = now + REPEAT_STEP if len(self._table) else inf
        for ingress in self._table.ingresses:
            self._announce(_take_due(self._paths.get(ingress, {}), now), self._table.at_ingress(ingress))
        self._announce_claims(_take_due(self._claimed, now), self._table)

    def _announce(self, paths: Iterable[Path], relays: Iterable[Address]) -> None:
        recipients, announced = tuple(relays), tuple(paths)
        for start in range(0, len(announced) if recipients else 0, MAX_ANNOUNCED_PATHS):
            batch = announced[start : start + MAX_ANNOUNCED_PATHS]
            self.counters.announced += len(batch)
            self.notices.append(Notice(Announce(batch), recipients))

    def _announce_claims(self, owners: Iterable[Owner], relays: Iterable[Address]) -> None:
        recipients = tuple(relays)
        self.notices.extend(Notice(Moved(previous, self.owner), recipients) for previous in owners if recipients)


def _take_due(announced: dict[Key, float], now: float) -> list[Key]:
    """Return what was announced longest ago and is due again, and put it last as announced now."""
    due = list(takewhile(lambda key: announced[key] + REPEAT_INTERVAL <= now, announced))
    for key in due:
        del announced[key]
        announced[key] = now
    return due
