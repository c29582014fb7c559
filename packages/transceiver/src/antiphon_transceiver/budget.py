"""What one call may cost a second: a token bucket in microseconds of work.

A datagram has a price by its protocol and its size, charged before the call takes it. A datagram that the call cannot
pay is dropped. Events of the caller and frames of the backend are charged when they are carried out. A call that is
sent more than `RATE` loses the rest; the other calls of the process lose nothing.

The price is the most work that a datagram may take on the machine of docs/reference/figures.md. The few datagrams of a
handshake may take more. `nox -s cost` holds the cores to the prices. Measured there: 20 to 42 µs for a packet
of Opus, 90 µs for a compound RTCP packet of 100 bytes, 140 µs for a check with its answer and our own check, 50 to 62
µs for an SCTP packet of 1,200 bytes, 7 µs for an event of the caller, 5 µs for a frame of audio.
"""

from math import inf
from typing import NamedTuple

from antiphon_common import frames
from antiphon_common.demux import Protocol, classify


class Price(NamedTuple):
    """Microseconds of work: for one input, and for each byte of it."""

    base: float
    per_byte: float = 0.0


PRICES = {
    Protocol.UNKNOWN: Price(5),
    Protocol.STUN: Price(120, 0.1),
    Protocol.DTLS: Price(60, 0.15),
    Protocol.RTP: Price(60, 0.1),
    Protocol.RTCP: Price(100, 0.2),
}
"""Prices of datagrams. DTLS carries SCTP, whose events are charged separately."""

EVENT = Price(15)
"""A message of the caller on its channel for events. Its bytes are charged with the datagrams that carry them."""

CONCEALED_MS = 10.0
"""Microseconds for each millisecond of the caller's audio that a decoder conceals. One packet can end 100 ms of
concealment in 40 stretches of 2.5 ms, which are decoded and encoded one by one."""

FRAME = Price(10, 0.01)
"""A frame of the backend, and each byte of its audio."""

SERVER_EVENT = Price(60, 0.03)
"""A frame with an event for the caller, and each byte of the event, which is converted to JSON."""

SENT_EVENT = Price(0, 0.07)
"""An event for the caller, once more: it is fragmented, encrypted and sent."""

RATE = 150_000.0
"""Microseconds of work for each second of a call. Audio both ways with RED and feedback takes 15,000; 500 full SCTP
packets, the most that a relay takes by one path, 120,000 more. So an attacker that spoofs one address of a caller
cannot use up the budget of its call."""

BURST = 75_000.0
"""Microseconds of work at once: a message of 256 KiB over a data channel takes 53,000, 75 packets of audio after a
stall 6,000. Other calls may have to wait that long, once."""

DEBT = 50_000.0
"""Microseconds that a call may owe beyond its burst, for work that is charged but not refused."""

OVER_SECONDS = 10.0
"""Seconds that a call may stay over its budget. Browsers and our client never do for one second."""

QUIET_SECONDS = 1.0
"""Seconds without a refused datagram after which a call counts as within its budget."""

_BURST_SECONDS = BURST / RATE
_DEBT_SECONDS = (BURST + DEBT) / RATE
_SECONDS = {protocol: (price.base / RATE, price.per_byte / RATE) for protocol, price in PRICES.items()}
_BY_FIRST_BYTES = [
    [_SECONDS[Protocol(classify(bytes((first, second))))] for second in range(256)] for first in range(256)
]
"""Prices in seconds of refill, by the first two bytes; looked up for each packet."""


class Budget:
    """The budget of one call: `admit` each datagram, and `charge` other work. Times are seconds."""

    __slots__ = ("_over_since", "_paid_at", "_refused_at", "refused")

    def __init__(self) -> None:
        self.refused = 0
        """Datagrams dropped."""
        self._paid_at = 0.0
        """When all work so far will be paid. From then on the bucket is full."""
        self._refused_at = self._over_since = -inf

    @property
    def exhausted(self) -> bool:
        """Whether the call has been over its budget for `OVER_SECONDS`."""
        return self._refused_at - self._over_since >= OVER_SECONDS

    def admit(self, datagram: bytes, now: float) -> bool:
        """Pay for a datagram of at least one byte. Return False, and count it, when it must be dropped."""
        size = len(datagram)
        base, per_byte = _BY_FIRST_BYTES[datagram[0]][datagram[size > 1]]
        paid_at = self._paid_at
        paid_at = (paid_at if paid_at > now else now) + base + per_byte * size
        if paid_at > now + _BURST_SECONDS:
            self._refuse(now)
            return False
        self._paid_at = paid_at
        return True

    def charge(self, microseconds: float, now: float) -> bool:
        """Pay for work that is done in any case. Return False when the call owes more than `DEBT`."""
        self._paid_at = max(self._paid_at, now) + microseconds / RATE
        return self._paid_at - now <= _DEBT_SECONDS

    def _refuse(self, now: float) -> None:
        if now >= self._refused_at + QUIET_SECONDS:
            self._over_since = now
        self._refused_at = now
        self.refused += 1


def price_of(datagram: bytes) -> float:
    """Return the price of a datagram in microseconds."""
    base, per_byte = PRICES[Protocol(classify(datagram))]
    return base + per_byte * len(datagram)


def frame_price(frame: object) -> float:
    """Return the price of a frame of the backend in microseconds."""
    match frame:
        case frames.Audio(data=data):
            return FRAME.base + FRAME.per_byte * len(data)
        case frames.ServerEvent(event=event):
            return SERVER_EVENT.base + SERVER_EVENT.per_byte * len(memoryview(event))
        case _:
            return FRAME.base
