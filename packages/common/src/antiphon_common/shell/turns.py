"""When a packet loop takes its next turn: at once while there is little to do, at the beat of a clock under load.

A wake-up costs several times what a packet does, in Python as in C. So a busy loop sleeps from beat to beat, and each
turn serves what came meanwhile, of however many calls.
"""

from math import floor, inf

import trio

BEAT = 0.005
"""Seconds between two beats. The deadlines of playout lie on them (`antiphon_transceiver.audio.playout`)."""

BUSY_SPACING = 1.5 * BEAT
"""A loop is busy when a turn that found packets began within this many seconds of the one before: from three calls on,
so that one alone is served at once."""


class Turns:
    """Waits for something to be readable or a deadline to come; while the loop is busy, for the next beat instead.

    Times are those of `trio.current_time`; timers of the system add up to a millisecond.
    """

    def __init__(self, descriptor: int, *, beat: float = BEAT) -> None:
        self._descriptor = descriptor
        self._beat = beat
        self._scope = trio.CancelScope()
        self._began = -inf
        self._spacing = inf

    async def wait(self, deadline: float | None, *, moved: bool) -> None:
        """Return when it is time for the next turn. `moved` tells whether there were packets in the one before."""
        if moved and self._spacing <= BUSY_SPACING:
            await trio.sleep_until((floor(trio.current_time() / self._beat) + 1) * self._beat)
        else:
            with trio.CancelScope(deadline=inf if deadline is None else deadline) as self._scope:
                await trio.lowlevel.wait_readable(self._descriptor)
        now = trio.current_time()
        self._spacing = now - self._began
        self._began = now

    def hasten(self, deadline: float | None) -> None:
        """Have the next turn begin by then, or by the next beat."""
        if deadline is not None and deadline < self._scope.deadline:
            self._scope.deadline = deadline
