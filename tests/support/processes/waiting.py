"""Waits for what real sockets and processes bring about, for as long as a test is willing to."""

from collections.abc import Callable

import trio

LOOK_SECONDS = 0.005
"""How often a condition is looked at."""

ASK_SECONDS = 0.02
"""How often a process is asked."""


async def until(condition: Callable[..., object], seconds: float = 10.0) -> None:
    """Return once `condition` holds; raise TooSlowError after `seconds`."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(LOOK_SECONDS)


async def until_told(condition: Callable[..., object], seconds: float = 10.0) -> None:
    """Do the same with a condition that blocks, since it asks another process."""
    with trio.fail_after(seconds):
        while not await trio.to_thread.run_sync(condition):
            await trio.sleep(ASK_SECONDS)
