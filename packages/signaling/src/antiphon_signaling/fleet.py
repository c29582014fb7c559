"""The transceivers there are, how busy each is, and in which order a call is tried at them. Without IO.

What is known comes from two sides: Redis lists who has a lease, with its load; and whom it does not list, or while it
is gone, is asked over the control API. A transceiver takes its capacity by itself, at the moment of the call, so what
is known here need only be good enough to ask the right ones first.

Several URLs may lead to one transceiver: its name, which is configured, and its address, which Redis lists. It is known
by its link, and counts once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from antiphon_common.control import LinkInfo, Load
from antiphon_common.registry import LEASE_SECONDS, Registered

FORGET_SECONDS = 60.0
"""Silence after which one is forgotten that Redis listed, before it fell silent too."""
MAX_LONG_SHOTS = 3
"""Transceivers that a call is tried at although they seem full, silent or draining: it may be a second ago. With all of
a large fleet, each refused call would cost it more than a taken one."""


class Member:
    """One transceiver, by one of its control URLs."""

    __slots__ = ("configured", "leased_until", "link", "listed", "load", "pending", "placed", "silent_since", "url")

    def __init__(self, url: str, *, configured: bool) -> None:
        self.url = url
        self.configured = configured
        self.listed = False
        self.leased_until = 0.0
        self.link: LinkInfo | None = None
        """What tells it from others; None before it was heard of."""
        self.load: Load | None = None
        """The latest report; None before the first."""
        self.placed = 0
        """Calls since that report."""
        self.pending = 0
        """Calls that it is being asked for now."""
        self.silent_since: float | None = None

    @property
    def hopeful(self) -> bool:
        """Whether a call is likely to be taken."""
        load = self.load
        return self.silent_since is None and (load is None or not load.draining) and self.fullness < 1

    @property
    def fullness(self) -> float:
        """The part of its capacity that is taken, as far as known."""
        load = self.load
        return 0.0 if load is None else (load.calls + self.placed + self.pending) / max(load.capacity, 1)

    @property
    def trust(self) -> tuple[bool, bool]:
        """What the best of several URLs of one transceiver has most of."""
        return self.silent_since is None, self.configured

    def report(self, load: Load) -> None:
        self.load = load
        self.placed = 0
        self.silent_since = None


class Fleet:
    """All transceivers. `configured` URLs are always members; `random(n)` returns a number from 0 to n - 1. `now` is in
    seconds."""

    def __init__(self, configured: Iterable[str], random: Callable[[int], int]) -> None:
        self._members = {url: Member(url, configured=True) for url in configured}
        self._random = random

    @property
    def urls(self) -> tuple[str, ...]:
        """One for each transceiver."""
        return tuple(member.url for member in self._each())

    # What is heard of them

    def list_leases(self, transceivers: Iterable[Registered], now: float) -> None:
        """Take all that Redis lists."""
        listed = {registered.control_url: registered for registered in transceivers}
        for member in self._members.values():
            if member.listed and member.url not in listed:
                member.listed, member.leased_until = False, now
        for url, registered in listed.items():
            member = self._members.setdefault(url, Member(url, configured=False))
            member.listed, member.leased_until, member.link = True, now + LEASE_SECONDS, registered.link
            member.report(registered.load)

    def due(self, now: float) -> list[str]:
        """Return the URLs that Redis tells nothing of at this moment: they are to be asked."""
        return [member.url for member in self._members.values() if member.leased_until <= now]

    def answered(self, url: str, link: LinkInfo, load: Load) -> bool:
        """Take what one said of itself; return whether it had been silent."""
        member = self._members.get(url)
        if member is None:
            return False
        was_silent = member.silent_since is not None
        member.link = link
        member.report(load)
        return was_silent

    def unanswered(self, url: str, now: float) -> bool:
        """One did not answer; return whether that is new. Who neither has a lease nor is configured is forgotten."""
        member = self._members.get(url)
        if member is None:
            return False
        is_new = member.silent_since is None
        since = member.silent_since = now if member.silent_since is None else member.silent_since
        if not member.configured and (not member.listed or now - since >= FORGET_SECONDS):
            del self._members[url]
        return is_new

    # Placing a call

    def order(self) -> Iterator[str]:
        """Yield where a call is to be tried: the better of two random ones, the others by how full they are, and then
        some that seem to have no room."""
        tried: set[str] = set()
        while hopeful := self._left(tried, hopeful=True):
            choice = self._better_of_two(hopeful) if not tried else min(hopeful, key=_fullness)
            tried.add(choice.url)
            yield choice.url
        for member in sorted(self._left(tried, hopeful=False), key=_despair)[:MAX_LONG_SHOTS]:
            yield member.url

    @contextmanager
    def asking(self, url: str) -> Iterator[None]:
        """Count a call that one is being asked for inside."""
        member = self._members.get(url) or Member(url, configured=False)
        member.pending += 1
        try:
            yield
        finally:
            member.pending -= 1

    def taken(self, url: str) -> None:
        """One took a call."""
        if (member := self._members.get(url)) is not None:
            member.placed += 1

    def refused(self, url: str, *, draining: bool) -> None:
        """One had no room for a call; so it is taken to have none until it reports again."""
        if (member := self._members.get(url)) is not None:
            member.report(Load(1, 1, draining) if member.load is None else _without_room(member.load, draining))

    def _left(self, tried: set[str], *, hopeful: bool) -> list[Member]:
        return [m for m in self._each() if m.url not in tried and m.hopeful == hopeful]

    def _each(self) -> Iterable[Member]:
        """Return each transceiver once: by a URL that answers, rather a configured one, and of equals the newest."""
        best: dict[LinkInfo | str, Member] = {}
        for member in self._members.values():
            known_by = member.link or member.url
            if known_by not in best or member.trust >= best[known_by].trust:
                best[known_by] = member
        return best.values()

    def _better_of_two(self, members: Sequence[Member]) -> Member:
        """Two random choices spread calls nearly as well as looking at all does, and many signaling servers that look
        at the same report do not all choose the same."""
        first = self._random(len(members))
        second = (first + 1 + self._random(len(members) - 1)) % len(members) if len(members) > 1 else first
        return min(members[first], members[second], key=_fullness)


def _without_room(load: Load, draining: bool) -> Load:
    return Load(max(load.calls, load.capacity), load.capacity, draining)


def _fullness(member: Member) -> float:
    return member.fullness


def _despair(member: Member) -> tuple[bool, bool, float]:
    return member.silent_since is not None, member.load is not None and member.load.draining, member.fullness
