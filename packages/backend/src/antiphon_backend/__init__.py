"""The inference side: a backend is an async function over one call.

async def parrot(call: Call) -> None:
    async for audio in call:
        await call.say(audio.data)

run_backend(parrot)
"""

from antiphon_backend.shell.call import AudioResponse, Call, CallFrames, ClientEvents, ParticipantEvent, RefuseCall
from antiphon_backend.shell.command import run_backend
from antiphon_backend.shell.server import Handler, serve_backend
from antiphon_common.formats import AudioFormat
from antiphon_common.frames import Audio, FrameStatus, Interrupted, Played

__all__ = [
    "Audio",
    "AudioFormat",
    "AudioResponse",
    "Call",
    "CallFrames",
    "ClientEvents",
    "FrameStatus",
    "Handler",
    "Interrupted",
    "ParticipantEvent",
    "Played",
    "RefuseCall",
    "run_backend",
    "serve_backend",
]
