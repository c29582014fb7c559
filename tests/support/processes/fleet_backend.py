"""A backend that sends speech without pause and measures the gaps in the audio that it receives.

`python -m support.processes.fleet_backend HOST:PORT SLOTS` prints `ready ws://…`. For each line that it reads, it
prints a JSON object: the gap of each call, by call id.
"""

import sys
from functools import partial

import trio

from antiphon.client.speech import RecordedSpeech
from antiphon_backend import Call, serve_backend
from antiphon_common.frames import FrameStatus
from support.net.gaps import Gap, answer_lines


class SpeakingBackend:
    """The handler of all calls. `figures` returns the gaps in the audio of each call."""

    def __init__(self, speech: RecordedSpeech) -> None:
        self._packets = speech.packets
        self._gaps: dict[str, Gap] = {}

    async def handle(self, call: Call) -> None:
        gap = self._gaps[call.id] = Gap()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._speak, call)
            async for audio in call:
                if audio.data and audio.status != FrameStatus.CONCEALED:
                    gap.count_packet()
            nursery.cancel_scope.cancel()

    def figures(self) -> dict[str, Gap]:
        return {call: gap.take() for call, gap in self._gaps.items()}

    async def _speak(self, call: Call) -> None:
        index = 0
        while await call.say(self._packets[index % len(self._packets)]):
            index += 1


async def main(address: str, slots: int) -> None:
    host, _, port = address.rpartition(":")
    backend = SpeakingBackend(RecordedSpeech.shipped())
    async with trio.open_nursery() as nursery:
        serve = partial(serve_backend, backend.handle, host, int(port), slots=slots, formats=("opus",))
        print("ready", await nursery.start(serve), flush=True)
        await answer_lines(backend.figures)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))
