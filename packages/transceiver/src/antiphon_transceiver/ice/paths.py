"""The paths of one call: the state of each, which one is selected, and which one is evicted when there are too many."""

from collections.abc import KeysView
from math import inf

from antiphon_common.core import Path
from antiphon_common.stun import Transaction
from antiphon_transceiver.ice.credentials import Generation

MAX_PATHS = 16
"""A client with Wi-Fi, mobile and a tunnel, IPv4 and IPv6, checks two ingresses from at most a dozen addresses."""

AMPLIFICATION_LIMIT = 3
"""Bytes sent for each byte received by a path that is not validated."""


class PathState:
    """One path with an authenticated check. The agent sets its fields; times are seconds on the agent's clock."""

    __slots__ = (
        "check",
        "check_password",
        "check_started",
        "generation",
        "last_received",
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
        self.last_received = now
        self.validated = False
        self.unreachable = False
        """Whether its ingress is reported to be unreachable; until something is received from there."""
        self.nomination = 0
        """Rises with each nomination that moves the call; 0 until the path is nominated."""
        self.received = 0
        self.sent = 0
        self.check: Transaction | None = None
        """Our own check under way: to validate the path, or for consent."""
        self.check_password = b""
        """Signs the response to it, also when a restart changed `generation` in the meantime."""
        self.check_started = now

    def may_send(self, size: int) -> bool:
        """Return whether the three-fold limit allows `size` bytes more."""
        return self.validated or self.sent + size <= AMPLIFICATION_LIMIT * self.received


class PathTable:
    """The paths of one call, at most `MAX_PATHS`, and which one is selected.

    The agent adds a path with the first check that has a valid MESSAGE-INTEGRITY, so a spoofed source adds none.
    """

    def __init__(self) -> None:
        self.states: dict[Path, PathState] = {}
        self._nominations = 0
        self.selected: PathState | None = None
        self._selected_at = -inf
        self.preferred: PathState | None = None
        """The path that would be selected if every ingress could be reached; mostly the same."""
        self.stale_at = inf
        """A time before which no path can be stale."""

    @property
    def paths(self) -> KeysView[Path]:
        return self.states.keys()

    def __len__(self) -> int:
        return len(self.states)

    @property
    def silent_since(self) -> float:
        """When something authenticated was last received by the selected path, or when it was selected: a standby pair
        is checked every `STANDBY_INTERVAL`, and has time to answer from when it is selected."""
        assert self.selected is not None
        return max(self.selected.last_received, self._selected_at)

    def get(self, path: Path) -> PathState | None:
        """Return the state of a path, or None."""
        return self.states.get(path)

    def add(self, state: PathState) -> PathState | None:
        """Add a path that is not there yet; return the one that was evicted for it, or None.

        The selected path is never evicted. Paths that are not validated are evicted first, then the one silent for
        longest: who replays a captured check from spoofed addresses evicts only paths that are not validated.
        """
        evicted = None
        if len(self.states) >= MAX_PATHS:
            evicted = min(
                (other for other in self.states.values() if other is not self.selected),
                key=lambda other: (other.validated, other.last_received),
            )
            self._remove(evicted)
        self.states[state.path] = state
        return evicted

    def pop_stale(self, now: float, lifetime: float) -> list[PathState]:
        """Remove and return the paths, except the selected one, that were silent for `lifetime` seconds."""
        others = [state for state in self.states.values() if state is not self.selected]
        stale = [state for state in others if now >= state.last_received + lifetime]
        for state in stale:
            self._remove(state)
        self.stale_at = min((state.last_received + lifetime for state in others if state not in stale), default=inf)
        return stale

    def clear(self) -> list[PathState]:
        """Remove every path, and return them."""
        states = list(self.states.values())
        self.states.clear()
        self.selected = self.preferred = None
        return states

    def nominate(self, state: PathState) -> bool:
        """Note a nomination; return whether another path was nominated last."""
        if state.nomination and state.nomination == self._nominations:
            return False
        self._nominations += 1
        state.nomination = self._nominations
        return True

    def select(self, now: float) -> bool:
        """Select the latest nominated and validated path; return whether the selection changed.

        Until a path is both, validated comes before nominated, so that no call is pointed at a victim. Otherwise the
        first path stays. Where the best path is unreachable, another validated path is selected: the one that is
        already, or that was received from last.
        """
        states = self.states.values()
        best = max(states, key=lambda state: (state.validated, state.nomination, state is self.preferred))
        self.preferred = best
        if best.unreachable:
            others = [state for state in states if state.validated and not state.unreachable]
            best = max(others, key=lambda state: (state is self.selected, state.last_received), default=best)
        if best is self.selected:
            return False
        self.selected, self._selected_at = best, now
        return True

    def mark(self, ingress: int, *, unreachable: bool) -> bool:
        """Note whether an ingress is unreachable; return whether that changed any path."""
        states = [state for state in self.states.values() if state.path.ingress == ingress]
        changed = [state for state in states if state.unreachable is not unreachable]
        for state in changed:
            state.unreachable = unreachable
        return bool(changed)

    def standby_pairs(self) -> list[PathState]:
        """Return the validated path received from last of each ingress, except that of the selected path."""
        latest: dict[int, PathState] = {}
        for state in self.states.values():
            ingress = state.path.ingress
            if state.validated and (ingress not in latest or state.last_received > latest[ingress].last_received):
                latest[ingress] = state
        if self.selected is not None:
            latest.pop(self.selected.path.ingress, None)
        return list(latest.values())

    def fresh(self, now: float, silence: float) -> PathState | None:
        """Return the path received from last, if that is less than `silence` seconds ago; validated unless none is."""
        latest = max(self.states.values(), key=lambda state: (state.validated, state.last_received), default=None)
        return latest if latest is not None and now < latest.last_received + silence else None

    def _remove(self, state: PathState) -> None:
        del self.states[state.path]
        if state is self.preferred:
            self.preferred = self.selected
