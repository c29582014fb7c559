"""When a packet loop takes its next turn: at once while there is little to do, with a whole heap when there is much."""

from math import inf

import trio

NAP_SECONDS = 0.001
"""How long packets gather under load; timers of the system make it 1 to 2 ms. A wake-up costs more than a packet."""

BUSY_SPACING = 0.003
"""A loop is busy when a turn that found packets came within this many seconds of the one before."""


class Turns:
    """Waits for something to be readable or a deadline to come; while the loop is busy, for the end of a nap instead.

    A nap may outlast a deadline by its own length. Times are those of `trio.current_time`.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._scope = trio.CancelScope()
        self._began = -inf
        self._spacing = inf

    async def wait(self, deadline: float | None, *, moved: bool) -> None:
        """Return when it is time for the next turn. `moved` tells whether there were packets in the one before."""
        if moved and self._spacing < BUSY_SPACING:
            await trio.sleep(NAP_SECONDS)
        else:
            with trio.CancelScope(deadline=inf if deadline is None else deadline) as self._scope:
                await trio.lowlevel.wait_readable(self._descriptor)
        now = trio.current_time()
        self._spacing = now - self._began
        self._began = now

    def hasten(self, deadline: float | None) -> None:
        """Have the next turn begin by then."""
        if deadline is not None and deadline < self._scope.deadline:
            self._scope.deadline = deadline
