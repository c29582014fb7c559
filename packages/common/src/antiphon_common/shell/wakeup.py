"""Wakes whoever waits for news, under Trio and asyncio."""

import anyio


class Wakeup:
    """Many may wait, and all are woken together. To ring where nobody waits costs next to nothing, and is forgotten."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    async def wait(self) -> None:
        """Wait until the next `ring`."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()

    def ring(self) -> None:
        """Wake everybody who waits now."""
        event, self._event = self._event, None
        if event is not None:
            event.set()
