"""Gaps in streams of packets, and the line protocol by which a process reports them.

Times are on the clock of `time.monotonic`, which all processes of a machine share.
"""

import os
import sys
import time
from collections.abc import Callable

import msgspec
import trio


class Gap(msgspec.Struct):
    """The longest gap since the last `take`, the times of the first and the last packet, and the number of packets.

    Call `count_packet` for each packet that arrives. Times are in seconds.
    """

    longest: float = 0.0
    first: float = 0.0
    last: float = 0.0
    packets: int = 0

    def count_packet(self) -> None:
        now = time.monotonic()
        if self.packets:
            self.longest = max(self.longest, now - self.last)
        else:
            self.first = now
        self.last = now
        self.packets += 1

    def take(self) -> "Gap":
        """Return the present state, including a gap that is still open, and reset the longest gap."""
        taken = msgspec.structs.replace(self)
        if self.packets:
            taken.longest = max(self.longest, time.monotonic() - self.last)
        self.longest = 0.0
        return taken


async def answer_lines(figures: Callable[[], object]) -> None:
    """Print the figures as JSON for each line of standard input, until standard input ends."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as requests:
        async for chunk in requests:
            for _ in range(chunk.count(b"\n")):
                print(msgspec.json.encode(figures()).decode(), flush=True)
