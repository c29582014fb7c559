"""How cores are driven by the bytes of a fuzzer."""

from collections.abc import Iterator
from typing import Any

from antiphon_common.core import Path

SOURCE = Path.of("192.0.2.7", 5000, ingress=1)

MAX_OUTPUT = 10_000
"""Datagrams, events and timeouts after which a core that was given one input has lost its way."""

PATIENCE = 60.0
"""Seconds for which a core that was given up is still asked what it wants: longer than any handshake."""


def pieces(data: bytes) -> Iterator[tuple[float, bytes]]:
    """Cut an input into datagrams: each has a byte of delay in hundredths of a second and two of length before it."""
    while len(data) >= 3:
        delay, length = data[0] / 100, int.from_bytes(data[1:3], "big") % 2048
        yield delay, data[3 : 3 + length]
        data = data[3 + length :]


def drain(core: Any) -> None:
    """Take what a core has to say, which must end."""
    for poll in (core.poll_transmit, core.poll_event):
        count = 0
        while poll() is not None:
            count += 1
            assert count < MAX_OUTPUT, "a core never stops talking"


def drive(core: Any, data: bytes, now: float = 1.0) -> None:
    """Give a core datagrams and time."""
    for delay, datagram in pieces(data):
        now += delay
        core.receive_datagram(datagram, SOURCE, now)
        drain(core)
        if core.poll_timeout() <= now:
            core.handle_timeout(now)
            drain(core)


def rest(core: Any, now: float) -> None:
    """Let time pass over a core until it wants nothing any more, or for a minute."""
    end, count = now + PATIENCE, 0
    while (deadline := core.poll_timeout()) <= end:
        core.handle_timeout(max(now, deadline))
        drain(core)
        count += 1
        assert count < MAX_OUTPUT, "a core never comes to rest"
