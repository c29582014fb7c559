"""Drives cores with the bytes of a fuzzer."""

from collections.abc import Iterator
from typing import Any

from antiphon_common.core import Path

SOURCE = Path.of("192.0.2.7", 5000, ingress=1)

MAX_OUTPUT = 10_000
"""Datagrams, events and timeouts after one input, above which a core is in an endless loop."""

REST_SECONDS = 60.0
"""Seconds for which the timeouts of an abandoned core are handled: longer than any handshake."""


def pieces(data: bytes) -> Iterator[tuple[float, bytes]]:
    """Cut an input into datagrams. Before each are a byte of delay, in hundredths of a second, and two of length."""
    while len(data) >= 3:
        delay, length = data[0] / 100, int.from_bytes(data[1:3], "big") % 2048
        yield delay, data[3 : 3 + length]
        data = data[3 + length :]


def drain(core: Any) -> None:
    """Poll all datagrams and events of a core. Raises AssertionError if there is no end."""
    for poll in (core.poll_transmit, core.poll_event):
        count = 0
        while poll() is not None:
            count += 1
            assert count < MAX_OUTPUT, "a core never stops sending"


def drive(core: Any, data: bytes, now: float = 1.0) -> None:
    """Pass the datagrams of an input to a core, and handle its timeouts."""
    for delay, datagram in pieces(data):
        now += delay
        core.receive_datagram(datagram, SOURCE, now)
        drain(core)
        if core.poll_timeout() <= now:
            core.handle_timeout(now)
            drain(core)


def rest(core: Any, now: float) -> None:
    """Handle the timeouts of a core until it has none, or for a minute."""
    end, count = now + REST_SECONDS, 0
    while (deadline := core.poll_timeout()) <= end:
        core.handle_timeout(max(now, deadline))
        drain(core)
        count += 1
        assert count < MAX_OUTPUT, "a core never comes to rest"
