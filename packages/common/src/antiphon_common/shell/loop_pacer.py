"""Paces a packet loop: it turns at once while there is little to do, and at the ticks of a clock under load.

A wake-up costs several times what a packet does, in Python as in C. So a busy loop sleeps from tick to tick. Each turn
serves the packets of all calls that arrived since the last one.
"""

from math import floor, inf

import trio

TICK = 0.005
"""Seconds between two ticks. The packet grid of playout lies on them (`antiphon_transceiver.audio.playout`)."""

BUSY_SPACING = 1.5 * TICK
"""A loop is busy when a turn that found packets began within this many seconds of the turn before. Three calls make it
busy; a single call is served at once."""


class LoopPacer:
    """Waits for packets or a deadline; while the loop is busy, for the next tick. A loop calls `wait` before each turn.

    Times are those of `trio.current_time`; timers of the system add up to a millisecond.
    """

    def __init__(self, descriptor: int, *, tick: float = TICK) -> None:
        self._descriptor = descriptor
        self._tick = tick
        self._scope = trio.CancelScope()
        self._began = -inf
        self._spacing = inf

    async def wait(self, deadline: float, *, moved: bool) -> None:
        """Return when the next turn is due. `moved` is True if the turn before moved packets."""
        if moved and self._spacing <= BUSY_SPACING:
            await trio.sleep_until((floor(trio.current_time() / self._tick) + 1) * self._tick)
        else:
            with trio.CancelScope(deadline=deadline) as self._scope:
                await trio.lowlevel.wait_readable(self._descriptor)
        now = trio.current_time()
        self._spacing = now - self._began
        self._began = now

    def wake_by(self, deadline: float) -> None:
        """Begin the next turn no later than `deadline`, or than the next tick of a busy loop."""
        if deadline < self._scope.deadline:
            self._scope.deadline = deadline
