"""Drives a core after one input: its datagrams, its events, and the timeouts due at once."""

from collections.abc import Callable
from typing import Any


def take_all(poll: Callable[[], Any]) -> None:
    while poll() is not None:
        pass


def drain(core: Any, now: float) -> None:
    """Poll the datagrams and events of a core, and handle one timeout if it is due now."""
    take_all(core.poll_transmit)
    take_all(core.poll_event)
    if core.poll_timeout() <= now:
        core.handle_timeout(now)
        take_all(core.poll_transmit)
        take_all(core.poll_event)
