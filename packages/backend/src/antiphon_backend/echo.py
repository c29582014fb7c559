"""Repeats each turn once the caller pauses: `python -m antiphon_backend.echo`."""

from collections import deque

import anyio

from antiphon_backend.gate import PAUSE_SECONDS, EnergyGate
from antiphon_backend.shell.call import Call
from antiphon_backend.shell.command import run_backend

FORMATS = ("pcm16/24000", "pcm16/16000", "pcm16/48000")

MAX_TURN_SECONDS = 30.0
"""The longest turn; a longer one ends there."""

LEAD_SECONDS = 0.3
"""Audio kept from before speech is detected, so that the first consonant is not lost."""

TAIL_SECONDS = 0.2
"""The part of the closing pause that a turn keeps."""


class Turns:
    """Cuts the caller's audio into turns, without IO. `push` takes audio and returns the turns that are complete."""

    def __init__(self, rate: int) -> None:
        self._bytes_per_second = 2 * rate
        self._gate = EnergyGate(rate)
        self._lead: deque[bytes] = deque()
        self._lead_bytes = 0
        self._turn: bytearray | None = None

    @property
    def speaking(self) -> bool:
        """Whether a turn is being recorded."""
        return self._turn is not None

    def push(self, pcm: bytes) -> bytes | None:
        """Add a piece of audio; return the turn that it completes, or None."""
        speaking = self._gate.push(pcm)
        if self._turn is None:
            self._keep_lead(pcm)
            if speaking:
                self._turn = bytearray().join(self._lead)
                self._lead.clear()
                self._lead_bytes = 0
            return None
        self._turn += pcm
        if speaking and len(self._turn) < MAX_TURN_SECONDS * self._bytes_per_second:
            return None
        turn, self._turn = self._turn, None
        pause = 0 if speaking else round((PAUSE_SECONDS - TAIL_SECONDS) * self._bytes_per_second / 2) * 2
        return bytes(turn[: len(turn) - pause])

    def _keep_lead(self, pcm: bytes) -> None:
        self._lead.append(pcm)
        self._lead_bytes += len(pcm)
        while self._lead_bytes > LEAD_SECONDS * self._bytes_per_second:
            self._lead_bytes -= len(self._lead.popleft())


async def echo(call: Call) -> None:
    """Repeat each turn once the caller pauses; stop when the caller speaks."""
    turns = Turns(call.format.rate)
    async with anyio.create_task_group() as answers:
        async for audio in call:
            silent = not turns.speaking
            turn = turns.push(audio.data)
            if turn is not None:
                answers.start_soon(_answer, call, turn)
            elif silent and turns.speaking:
                await call.clear()


async def _answer(call: Call, turn: bytes) -> None:
    response = call.start_response()
    await response.say(turn)
    await response.end()


if __name__ == "__main__":
    run_backend(echo, formats=FORMATS)
