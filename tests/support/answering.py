"""A backend that answers events: in the test's own process, or `python -m support.answering`."""

from antiphon_backend import Call
from antiphon_backend.command import run_backend


async def answer_events(call: Call) -> None:
    """Answer each event of a client with one that has it inside, until there is one of type `hang_up`."""
    async for event in call.events():
        await call.send_event({"type": "answer", "to": event})
        if event["type"] == "hang_up":
            return


if __name__ == "__main__":
    run_backend(answer_events)
