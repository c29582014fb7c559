"""RED (RFC 2198): packets of one codec that repeat what those before them held."""

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from antiphon_common.errors import DecodeError

MAX_DISTANCE: Final = 6
"""How many packets before it the furthest is that one repeats: of 20 ms each those within `MAX_AGE`."""

MAX_AGE: Final = 5760
"""Ticks before it at which the oldest began, 120 ms: nobody who converses waits longer for what is missing."""

MAX_BLOCKS: Final = 8
"""Repeated blocks that a packet may have. Browsers send one or two; what is older than the jitter buffer's longest
target comes too late anyhow."""

MAX_PAYLOAD: Final = 1000
"""Bytes of a payload with what it repeats: it must fit a path's smallest datagram, with SRTP, the relay's header and
header extensions around it."""

_MAX_TICKS, _MAX_SIZE = (1 << 14) - 1, (1 << 10) - 1
_FOLLOWED = 0x80


class OtherPayloadError(DecodeError):
    """A RED payload whose own block is of another payload type than the audio."""


class Repeated(NamedTuple):
    """The payload of an earlier packet, so many ticks of the RTP clock before the one that repeats it. Which packet
    it was is not said: the blocks of one need not be neighbours."""

    ticks: int
    payload: bytes


def decode_red(data: bytes, carried: int) -> tuple[bytes, list[Repeated]]:
    """Return the payload itself, and what it repeats, oldest first.

    Repeated blocks of other payload types than `carried` are left out. Raises OtherPayloadError where the block of its
    own is of another type, DecodeError for what is no RED.
    """
    heads: list[int] = []
    position = 0
    while position < len(data) and data[position] & _FOLLOWED:
        if position + 4 > len(data) or len(heads) >= MAX_BLOCKS:
            raise DecodeError("the headers of a RED payload are cut short, or too many")
        heads.append(int.from_bytes(data[position : position + 4], "big"))
        position += 4
    if position >= len(data):
        raise DecodeError("a RED payload without a block of its own")
    if data[position] != carried:
        raise OtherPayloadError(f"a RED payload of type {data[position]}")
    position += 1
    repeated = []
    for head in heads:
        block = data[position : position + (head & _MAX_SIZE)]
        position += head & _MAX_SIZE
        if block and head >> 24 & 0x7F == carried:
            repeated.append(Repeated(head >> 10 & _MAX_TICKS, block))
    if position > len(data):
        raise DecodeError("the blocks of a RED payload are cut short")
    return data[position:], repeated


class RedEncoder:
    """Adds to each payload of a stream, of type `carried`, those of the packets before it."""

    def __init__(self, carried: int) -> None:
        self._carried = carried
        self._sent: deque[tuple[int, bytes]] = deque(maxlen=MAX_DISTANCE)

    def encode(self, payload: bytes, timestamp: int, distances: Sequence[int]) -> bytes:
        """Return a RED payload that repeats those so many packets before it, or in place of one that is too old the
        oldest that is not; `timestamp` is in RTP ticks and may exceed 32 bits. Payloads too long are left out."""
        size, blocks = len(payload), []
        ages = [timestamp - sent_at & 0xFFFFFFFF for sent_at, _ in self._sent]
        furthest = sum(age <= MAX_AGE for age in ages)
        for distance in sorted({min(distance, furthest) for distance in distances} - {0}):
            _, earlier = self._sent[-distance]
            if size + len(earlier) <= MAX_PAYLOAD:
                size += len(earlier)
                blocks.append((ages[-distance] << 10 | len(earlier), earlier))
        self.remember(payload, timestamp)
        blocks.reverse()
        heads = b"".join(((_FOLLOWED | self._carried) << 24 | head).to_bytes(4, "big") for head, _ in blocks)
        return heads + bytes((self._carried,)) + b"".join(earlier for _, earlier in blocks) + payload

    def remember(self, payload: bytes, timestamp: int) -> None:
        """Take a payload that was sent by itself: one after it may repeat it."""
        self._sent.append((timestamp, payload))
