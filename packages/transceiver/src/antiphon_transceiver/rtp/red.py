"""Redundant audio (RED, RFC 2198): packets that contain the payloads of earlier packets in addition to their own."""

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from antiphon_common.errors import DecodeError

MAX_OFFSET: Final = 6
"""Largest redundancy offset, in packets (RFC 2198). Packets older than `MAX_AGE` are not repeated."""

MAX_AGE: Final = 5760
"""Largest age of a redundant block in RTP ticks: 120 ms. A conversation waits no longer for missing audio."""

MAX_REDUNDANT_BLOCKS: Final = 8
"""Largest number of redundant blocks in a packet. Browsers send one or two. Blocks older than the jitter buffer's
largest target delay are late anyway."""

MAX_PAYLOAD: Final = 1000
"""Largest RED payload in bytes. With SRTP, header extensions and the relay's header, it must fit the smallest datagram
of a path."""

_MAX_TICKS, _MAX_SIZE = (1 << 14) - 1, (1 << 10) - 1
_MORE_BLOCKS = 0x80


class OtherPayloadError(DecodeError):
    """The primary block of a RED payload is of another payload type than the audio. `decode_red` raises it."""


class RedundantBlock(NamedTuple):
    """The payload of an earlier packet, and its timestamp offset in RTP ticks (RFC 2198 §3). `decode_red` returns it.

    The sequence number of the earlier packet is unknown: redundant blocks need not be consecutive packets.
    """

    ticks: int
    payload: bytes


def decode_red(data: bytes, primary_type: int) -> tuple[bytes, list[RedundantBlock]]:
    """Return the primary block and the redundant blocks, oldest first.

    Redundant blocks of other payload types than `primary_type` are skipped.

    Raises:
        OtherPayloadError: the primary block is of another type.
        DecodeError: the payload violates RFC 2198 §3.
    """
    heads: list[int] = []
    position = 0
    while position < len(data) and data[position] & _MORE_BLOCKS:
        if position + 4 > len(data) or len(heads) >= MAX_REDUNDANT_BLOCKS:
            raise DecodeError("the headers of a RED payload are cut short, or too many")
        heads.append(int.from_bytes(data[position : position + 4], "big"))
        position += 4
    if position >= len(data):
        raise DecodeError("a RED payload without a primary block")
    if data[position] != primary_type:
        raise OtherPayloadError(f"a RED payload of type {data[position]}")
    position += 1
    redundant = []
    for head in heads:
        block = data[position : position + (head & _MAX_SIZE)]
        position += head & _MAX_SIZE
        if block and head >> 24 & 0x7F == primary_type:
            redundant.append(RedundantBlock(head >> 10 & _MAX_TICKS, block))
    if position > len(data):
        raise DecodeError("the blocks of a RED payload are cut short")
    return data[position:], redundant


class RedEncoder:
    """Adds redundant blocks to the payloads of a stream. Call `encode` or `remember` once for each packet.

    `primary_type` is the payload type of the audio.
    """

    def __init__(self, primary_type: int) -> None:
        self._primary_type = primary_type
        self._sent: deque[tuple[int, bytes]] = deque(maxlen=MAX_OFFSET)

    def encode(self, payload: bytes, timestamp: int, offsets: Sequence[int]) -> bytes:
        """Return a RED payload, without blocks that would exceed `MAX_PAYLOAD`.

        `timestamp` is in RTP ticks and may exceed 32 bits. `offsets` are redundancy offsets in packets. For an offset
        beyond `MAX_AGE`, the oldest packet within `MAX_AGE` is repeated.
        """
        size, blocks = len(payload), []
        ages = [timestamp - sent_at & 0xFFFFFFFF for sent_at, _ in self._sent]
        furthest = sum(age <= MAX_AGE for age in ages)
        for offset in sorted({min(offset, furthest) for offset in offsets} - {0}):
            _, earlier = self._sent[-offset]
            if size + len(earlier) <= MAX_PAYLOAD:
                size += len(earlier)
                blocks.append((ages[-offset] << 10 | len(earlier), earlier))
        self.remember(payload, timestamp)
        blocks.reverse()
        heads = b"".join(((_MORE_BLOCKS | self._primary_type) << 24 | head).to_bytes(4, "big") for head, _ in blocks)
        return heads + bytes((self._primary_type,)) + b"".join(earlier for _, earlier in blocks) + payload

    def remember(self, payload: bytes, timestamp: int) -> None:
        """Remember a payload that is sent without redundancy, so that a later packet can repeat it."""
        self._sent.append((timestamp, payload))
