"""A backend that sends each caller its audio back, and 100 events per second.

Start it with `python -m support.processes.events_backend`.
"""

import anyio

from antiphon_backend import Call
from antiphon_backend.shell.command import run_backend

FORMATS = ("pcm16/24000", "opus")
SPACING = 0.01


async def answer(call: Call) -> None:
    """Send audio back, and events, until the call ends."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_send_events, call)
        async for audio in call:
            await call.say(audio.data)
        tasks.cancel_scope.cancel()


async def _send_events(call: Call) -> None:
    while True:
        await call.send_event({"type": "a"})
        await anyio.sleep(SPACING)


if __name__ == "__main__":
    run_backend(answer, formats=FORMATS)
