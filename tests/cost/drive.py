"""What follows from one input is driven here: what leaves, what is told, and the timeouts due at once."""

from collections.abc import Callable
from typing import Any


def take_all(poll: Callable[[], Any]) -> None:
    while poll() is not None:
        pass


def drain(core: Any, now: float) -> None:
    """Take what a core sends and tells, and let it do once what is due now: the rest of it waits for its turn."""
    take_all(core.poll_transmit)
    take_all(core.poll_event)
    if core.poll_timeout() <= now:
        core.handle_timeout(now)
        take_all(core.poll_transmit)
        take_all(core.poll_event)
