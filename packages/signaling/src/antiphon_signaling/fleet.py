"""The fleet of transceivers: which there are, how busy each is, and in which order a call is tried at them.

Redis lists the transceivers that have a lease, with their load. All others are asked over the control API; so is every
transceiver while Redis cannot be reached. A transceiver checks its capacity itself when a call is placed. So the loads
here only have to be accurate enough to try likely transceivers first.

Several URLs may lead to one transceiver: its configured name, and its address, which Redis lists. Its link identifies
it, so that it counts once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from antiphon_common.control import LinkInfo, Load
from antiphon_common.registry import LEASE_SECONDS, Registered

FORGET_SECONDS = 60.0
"""Seconds without an answer after which a transceiver is removed that Redis had listed."""
MAX_FALLBACK_ATTEMPTS = 3
"""Transceivers at which a call is tried although they seem full, unreachable or draining: reports are up to a second
old. If a call tried the whole of a large fleet, a refused one would cost more than an accepted one."""


class Member:
    """One transceiver under one of its control URLs. The fleet updates it with each report and placed call."""

    __slots__ = ("configured", "leased_until", "link", "listed", "load", "pending", "placed", "silent_since", "url")

    def __init__(self, url: str, *, configured: bool) -> None:
        self.url = url
        self.configured = configured
        self.listed = False
        self.leased_until = 0.0
        self.link: LinkInfo | None = None
        """Identifies the transceiver; None before its first report."""
        self.load: Load | None = None
        """The latest report; None before the first."""
        self.placed = 0
        """Calls placed since that report."""
        self.pending = 0
        """Requests for calls in progress."""
        self.silent_since: float | None = None

    @property
    def likely_available(self) -> bool:
        """True if the transceiver is likely to accept a call."""
        load = self.load
        return self.silent_since is None and (load is None or not load.draining) and self.fullness < 1

    @property
    def fullness(self) -> float:
        """Share of the capacity in use, by the latest report; 0 before the first."""
        load = self.load
        return 0.0 if load is None else (load.calls + self.placed + self.pending) / max(load.capacity, 1)

    @property
    def preference(self) -> tuple[bool, bool]:
        """Sort key of the URLs of one transceiver: the highest is used."""
        return self.silent_since is None, self.configured

    def report(self, load: Load) -> None:
        """Take the load that the transceiver or Redis reports."""
        self.load = load
        self.placed = 0
        self.silent_since = None


class Fleet:
    """All transceivers of a signaling server. Pass it what Redis and the transceivers report; try calls by `order`.

    `configured` URLs are always members. `random(n)` returns a number from 0 to n - 1. `now` is in seconds.
    """

    def __init__(self, configured: Iterable[str], random: Callable[[int], int]) -> None:
        self._members = {url: Member(url, configured=True) for url in configured}
        self._random = random

    @property
    def urls(self) -> tuple[str, ...]:
        """One URL for each transceiver."""
        return tuple(member.url for member in self._each())

    # Reports

    def list_leases(self, transceivers: Iterable[Registered], now: float) -> None:
        """Take the transceivers that Redis lists now."""
        listed = {registered.control_url: registered for registered in transceivers}
        for member in self._members.values():
            if member.listed and member.url not in listed:
                member.listed, member.leased_until = False, now
        for url, registered in listed.items():
            member = self._members.setdefault(url, Member(url, configured=False))
            member.listed, member.leased_until, member.link = True, now + LEASE_SECONDS, registered.link
            member.report(registered.load)

    def due(self, now: float) -> list[str]:
        """Return the URLs that Redis does not list now, and that have to be asked."""
        return [member.url for member in self._members.values() if member.leased_until <= now]

    def answered(self, url: str, link: LinkInfo, load: Load) -> bool:
        """Take an answer of a transceiver. Return True if it had not answered before."""
        member = self._members.get(url)
        if member is None:
            return False
        was_silent = member.silent_since is not None
        member.link = link
        member.report(load)
        return was_silent

    def unanswered(self, url: str, now: float) -> bool:
        """Note that a transceiver did not answer. Return True if it had answered before.

        A member that has no lease and is not configured is removed.
        """
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
        """Yield the URLs at which a call is to be tried.

        First comes the less full of two random members, then the others by fullness, then some that seem to have no
        capacity left.
        """
        tried: set[str] = set()
        while likely := self._untried(tried, likely_available=True):
            choice = self._better_of_two(likely) if not tried else min(likely, key=_fullness)
            tried.add(choice.url)
            yield choice.url
        for member in sorted(self._untried(tried, likely_available=False), key=_fallback_rank)[:MAX_FALLBACK_ATTEMPTS]:
            yield member.url

    @contextmanager
    def asking(self, url: str) -> Iterator[None]:
        """Count a request for a call at `url` for the duration of the context."""
        member = self._members.get(url) or Member(url, configured=False)
        member.pending += 1
        try:
            yield
        finally:
            member.pending -= 1

    def taken(self, url: str) -> None:
        """Note that a transceiver has accepted a call."""
        if (member := self._members.get(url)) is not None:
            member.placed += 1

    def refused(self, url: str, *, draining: bool) -> None:
        """Note that a transceiver has refused a call. It counts as full until its next report."""
        if (member := self._members.get(url)) is not None:
            member.report(Load(1, 1, draining) if member.load is None else _without_capacity(member.load, draining))

    def _untried(self, tried: set[str], *, likely_available: bool) -> list[Member]:
        return [m for m in self._each() if m.url not in tried and m.likely_available == likely_available]

    def _each(self) -> Iterable[Member]:
        """Return each transceiver once. URLs that answer come first, then configured ones, then the newest."""
        best: dict[LinkInfo | str, Member] = {}
        for member in self._members.values():
            identity = member.link or member.url
            if identity not in best or member.preference >= best[identity].preference:
                best[identity] = member
        return best.values()

    def _better_of_two(self, members: Sequence[Member]) -> Member:
        """Return the less full of two random members.

        That spreads calls nearly as well as a look at all members. Several signaling servers with the same reports do
        not all choose the same transceiver.
        """
        first = self._random(len(members))
        second = (first + 1 + self._random(len(members) - 1)) % len(members) if len(members) > 1 else first
        return min(members[first], members[second], key=_fullness)


def _without_capacity(load: Load, draining: bool) -> Load:
    return Load(max(load.calls, load.capacity), load.capacity, draining)


def _fullness(member: Member) -> float:
    return member.fullness


def _fallback_rank(member: Member) -> tuple[bool, bool, float]:
    return member.silent_since is not None, member.load is not None and member.load.draining, member.fullness
