"""A wake-up call for tasks, under Trio and asyncio."""

import anyio


class Wakeup:
    """Wakes all tasks that `wait` when it `ring`s. A ring without a waiting task is lost, and costs next to nothing."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    async def wait(self) -> None:
        """Wait until the next `ring`."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()

    def ring(self) -> None:
        """Wake all tasks that wait now."""
        event, self._event = self._event, None
        if event is not None:
            event.set()
