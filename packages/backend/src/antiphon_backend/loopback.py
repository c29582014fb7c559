"""Returns every frame at once, to measure latency: `python -m antiphon_backend.loopback`."""

from antiphon_backend.shell.call import Call
from antiphon_backend.shell.command import run_backend

FORMATS = ("pcm16/24000", "pcm16/16000", "pcm16/48000", "opus")


async def loopback(call: Call) -> None:
    """Return every frame at once."""
    async for audio in call:
        await call.say(audio.data)


if __name__ == "__main__":
    run_backend(loopback, formats=FORMATS)
