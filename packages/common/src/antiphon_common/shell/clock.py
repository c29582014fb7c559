"""Unix time for protocol cores, whose clock is Trio's: it never goes backwards, and nobody sets it."""

from collections.abc import Callable
from time import time

import trio

LOOK_SECONDS = 1.0
"""Between two looks at the wall clock. Keys begin and retire by it, with seconds to spare."""


def unix_offset() -> float:
    """Return what added to Trio's time gives Unix time, in seconds."""
    return time() - trio.current_time()


async def follow_wall_clock(set_unix_offset: Callable[[float], None]) -> None:
    """Tell `unix_offset` again and again until cancelled: somebody may set the wall clock, and Trio's stands still
    while a machine sleeps."""
    while True:
        await trio.sleep(LOOK_SECONDS)
        set_unix_offset(unix_offset())
