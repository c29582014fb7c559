"""Backends that answer events, in the test's process or as `python -m support.processes.answering_backend`."""

from contextlib import AbstractContextManager

import anyio

from antiphon_backend import Call
from antiphon_backend.loopback import loopback
from antiphon_backend.shell.command import run_backend
from support.fakes.backend_calls import serving_in_thread


async def answer_events(call: Call) -> None:
    """Answer each event of a client with an event that contains it. Return after an event of type `hang_up`."""
    async for event in call.events():
        await call.send_event({"type": "answer", "to": event})
        if event["type"] == "hang_up":
            return


async def repeat_everything(call: Call) -> None:
    """Send all audio and all events back unchanged."""
    async with anyio.create_task_group() as both:
        both.start_soon(loopback, call)
        async for event in call.events():
            await call.send_event(event)


def repeating_backend() -> AbstractContextManager[str]:
    """Serve `repeat_everything` within the block, with Opus passed through. Yield the URL."""
    return serving_in_thread(repeat_everything, formats=["opus"])


if __name__ == "__main__":
    run_backend(answer_events)
