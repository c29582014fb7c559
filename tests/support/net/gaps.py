"""Gaps in streams of packets, and programs that tell them when they are asked.

Times are those of `time.monotonic`, which all processes of a machine share.
"""

import os
import sys
import time
from collections.abc import Callable

import msgspec
import trio


class Gap(msgspec.Struct):
    """The longest time in which nothing came since it was asked for before; when the first packet came, and the last;
    how many of them came."""

    longest: float = 0.0
    first: float = 0.0
    last: float = 0.0
    packets: int = 0

    def heard(self) -> None:
        now = time.monotonic()
        if self.packets:
            self.longest = max(self.longest, now - self.last)
        else:
            self.first = now
        self.last = now
        self.packets += 1

    def take(self) -> "Gap":
        """Return how it is now, a gap that is still open included, and begin to look for the longest anew."""
        taken = msgspec.structs.replace(self)
        if self.packets:
            taken.longest = max(self.longest, time.monotonic() - self.last)
        self.longest = 0.0
        return taken


async def answer_lines(figures: Callable[[], object]) -> None:
    """Print the figures as JSON for each line of standard input, until that ends."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as asked:
        async for chunk in asked:
            for _ in range(chunk.count(b"\n")):
                print(msgspec.json.encode(figures()).decode(), flush=True)
