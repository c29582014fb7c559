"""Waits for conditions that real sockets and processes fulfil, with a deadline."""

from collections.abc import Callable

import trio

LOOK_SECONDS = 0.005
"""Seconds between two evaluations of a condition."""

ASK_SECONDS = 0.02
"""Seconds between two requests to another process."""


async def until(condition: Callable[..., object], seconds: float = 10.0) -> None:
    """Return once `condition` holds. Raises TooSlowError after `seconds`."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(LOOK_SECONDS)


async def until_reported(condition: Callable[..., object], seconds: float = 10.0) -> None:
    """Return once `condition`, which blocks on another process, holds. Raises TooSlowError after `seconds`."""
    with trio.fail_after(seconds):
        while not await trio.to_thread.run_sync(condition):
            await trio.sleep(ASK_SECONDS)
