"""Backends that answer events: in the test's own process, or `python -m support.processes.answering_backend`."""

from contextlib import AbstractContextManager

import anyio

from antiphon_backend import Call
from antiphon_backend.loopback import loopback
from antiphon_backend.shell.command import run_backend
from support.fakes.backend_calls import serving_in_thread


async def answer_events(call: Call) -> None:
    """Answer each event of a client with one that has it inside, until there is one of type `hang_up`."""
    async for event in call.events():
        await call.send_event({"type": "answer", "to": event})
        if event["type"] == "hang_up":
            return


async def repeat_everything(call: Call) -> None:
    """Say all audio and send all events back as they came."""
    async with anyio.create_task_group() as both:
        both.start_soon(loopback, call)
        async for event in call.events():
            await call.send_event(event)


def repeating_backend() -> AbstractContextManager[str]:
    """Serve `repeat_everything` for the length of a block, with Opus passed through; its value is the URL."""
    return serving_in_thread(repeat_everything, formats=["opus"])


if __name__ == "__main__":
    run_backend(answer_events)
