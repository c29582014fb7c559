"""The paths of one call: what is known of each, which one is best, and which one has to go when there are too many."""

from collections.abc import KeysView
from math import inf

from antiphon_common.core import Path
from antiphon_common.stun import Transaction
from antiphon_transceiver.ice.credentials import Generation

MAX_PATHS = 16
"""A client with Wi-Fi, mobile and a tunnel, IPv4 and IPv6, checks two ingresses from at most a dozen addresses."""

AMPLIFICATION_LIMIT = 3
"""Bytes sent for each byte received while the peer has not proved to be where its packets claim to come from."""


class PathState:
    """One path with an authenticated check. Times are those of the agent's clock."""

    __slots__ = (
        "check",
        "check_password",
        "check_started",
        "generation",
        "last_heard",
        "nomination",
        "path",
        "received",
        "sent",
        "unreachable",
        "validated",
    )

    def __init__(self, path: Path, generation: Generation, now: float) -> None:
        self.path = path
        self.generation = generation
        """The credentials of the latest check; ours on this path use the same."""
        self.last_heard = now
        self.validated = False
        self.unreachable = False
        """Nothing can be sent to its ingress, says the owner, until something is heard from there."""
        self.nomination = 0
        """Rises with each nomination that moves the call; 0 until the path is nominated."""
        self.received = 0
        self.sent = 0
        self.check: Transaction | None = None
        """Our own check under way: to validate the path, or to probe a silent one."""
        self.check_password = b""
        """Signs the response to it, also when a restart changed `generation` in the meantime."""
        self.check_started = now

    def may_send(self, size: int) -> bool:
        return self.validated or self.sent + size <= AMPLIFICATION_LIMIT * self.received


class PathTable:
    """At most `MAX_PATHS` paths. Only a check with a valid MESSAGE-INTEGRITY adds one, so a stranger adds none."""

    def __init__(self) -> None:
        self.states: dict[Path, PathState] = {}
        self._nominations = 0
        self.selected: PathState | None = None
        self.preferred: PathState | None = None
        """What would be selected if every ingress could be reached; mostly the same."""
        self.stale_at = inf
        """A time before which no path can be stale."""

    @property
    def paths(self) -> KeysView[Path]:
        return self.states.keys()

    def __len__(self) -> int:
        return len(self.states)

    def get(self, path: Path) -> PathState | None:
        return self.states.get(path)

    def add(self, state: PathState) -> PathState | None:
        """Add a path that is not there yet; return the one that made room for it.

        Never the selected one. A path that was validated goes after all that were not, then the one silent for
        longest: whoever replays a captured check from spoofed addresses displaces only paths that prove nothing.
        """
        evicted = None
        if len(self.states) >= MAX_PATHS:
            evicted = min(
                (other for other in self.states.values() if other is not self.selected),
                key=lambda other: (other.validated, other.last_heard),
            )
            self._remove(evicted)
        self.states[state.path] = state
        return evicted

    def pop_stale(self, now: float, lifetime: float) -> list[PathState]:
        """Remove the paths, save the selected one, from which nothing was heard for `lifetime` seconds."""
        others = [state for state in self.states.values() if state is not self.selected]
        stale = [state for state in others if now >= state.last_heard + lifetime]
        for state in stale:
            self._remove(state)
        self.stale_at = min((state.last_heard + lifetime for state in others if state not in stale), default=inf)
        return stale

    def clear(self) -> list[PathState]:
        """Remove every path, and return them."""
        states = list(self.states.values())
        self.states.clear()
        self.selected = self.preferred = None
        return states

    def nominate(self, state: PathState) -> bool:
        """Note a nomination; return whether it is another path than the latest one."""
        if state.nomination and state.nomination == self._nominations:
            return False
        self._nominations += 1
        state.nomination = self._nominations
        return True

    def select(self) -> bool:
        """Choose the latest nominated and validated path: return whether the choice changed.

        Until one is both, validated comes before nominated (no call is pointed at a stranger), and with nothing to
        choose by the first path stays. Where the choice cannot be reached, the best of the other validated paths
        stands in for it: the one that does so already, or that was heard latest.
        """
        states = self.states.values()
        best = max(states, key=lambda state: (state.validated, state.nomination, state is self.preferred))
        self.preferred = best
        if best.unreachable:
            others = [state for state in states if state.validated and not state.unreachable]
            best = max(others, key=lambda state: (state is self.selected, state.last_heard), default=best)
        changed = best is not self.selected
        self.selected = best
        return changed

    def mark(self, ingress: int, *, unreachable: bool) -> bool:
        """Note whether an ingress can be reached; return whether that is news for any path."""
        states = [state for state in self.states.values() if state.path.ingress == ingress]
        changed = [state for state in states if state.unreachable is not unreachable]
        for state in changed:
            state.unreachable = unreachable
        return bool(changed)

    def backups(self) -> list[PathState]:
        """Return of each ingress, save that of the selected path, the validated path heard latest."""
        latest: dict[int, PathState] = {}
        for state in self.states.values():
            ingress = state.path.ingress
            if state.validated and (ingress not in latest or state.last_heard > latest[ingress].last_heard):
                latest[ingress] = state
        if self.selected is not None:
            latest.pop(self.selected.path.ingress, None)
        return list(latest.values())

    def alive(self, now: float, silence: float) -> PathState | None:
        """Return the path heard latest, if that is less than `silence` seconds ago; validated unless none is."""
        latest = max(self.states.values(), key=lambda state: (state.validated, state.last_heard), default=None)
        return latest if latest is not None and now < latest.last_heard + silence else None

    def _remove(self, state: PathState) -> None:
        del self.states[state.path]
        if state is self.preferred:
            self.preferred = self.selected
