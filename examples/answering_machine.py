"""An answering machine: beeps, listens for three seconds, says what it heard, and hangs up."""

import math
import struct

from antiphon_backend import Call, run_backend


def beep(rate: int) -> bytes:
    return b"".join(struct.pack("<h", round(8000 * math.sin(2 * math.pi * 880 * n / rate))) for n in range(rate // 4))


async def answering_machine(call: Call) -> None:
    """Beep, listen, repeat, hang up."""
    await call.say(beep(call.format.rate))
    message = b""
    async for audio in call:
        message += audio.data
        if len(message) >= 3 * 2 * call.format.rate:
            break
    await call.say(message)


if __name__ == "__main__":
    run_backend(answering_machine)
