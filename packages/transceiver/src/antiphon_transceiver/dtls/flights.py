"""Flights of handshake messages (RFC 6347 §4.2.3 and §4.2.4): fragments, reassembly, retransmission."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from antiphon_transceiver.dtls.messages import HEADER_SIZE, Fragment, HandshakeMessage, HandshakeType
from antiphon_transceiver.dtls.record import ContentType, RecordLayer

MIN_FRAGMENT = 64
"""Bytes of a body that are worth a fragment of their own at the end of a datagram."""

MAX_MESSAGE = 1 << 14
"""Longest body we take: a certificate chain has a few thousand bytes, today's longest ClientHello 1,500."""

MAX_AHEAD = 8
"""Messages we hold pieces of at once; the longest flight has five."""

MAX_PIECES = 64
"""Pieces with holes between them that we hold of one message: a body of `MAX_MESSAGE` in datagrams of 300 bytes."""

MAX_HELD = 1 << 15
"""Bytes of pieces we hold at once, of all messages together."""

FIRST_TIMEOUT = 0.1
"""Seconds to the first retransmission while no round trip has been measured."""

MIN_TIMEOUT = 0.05
MAX_TIMEOUT = 1.0
"""Seconds. RFC 6347 §4.2.4.1 starts at 1 s and ends at 60; a caller waits for this handshake, and it is small."""


class ChangeCipherSpec(NamedTuple):
    """What stands before Finished in a flight; no handshake message (RFC 5246 §7.1)."""

    body: bytes = b"\x01"


Flight = Sequence[HandshakeMessage | ChangeCipherSpec]


def epoch_of(message_type: int) -> int:
    """Return the epoch a message travels in: ChangeCipherSpec is followed by Finished and nothing else."""
    return 1 if message_type == HandshakeType.FINISHED else 0


def pack_flight(flight: Flight, records: RecordLayer, mtu: int) -> list[bytes]:
    """Encode a flight in as few datagrams of at most `mtu` bytes as its order allows, with new record numbers."""
    datagrams: list[bytes] = []
    current = b""
    for message in flight:
        if isinstance(message, ChangeCipherSpec):
            record = records.encode(ContentType.CHANGE_CIPHER_SPEC, 0, message.body)
            if len(current) + len(record) > mtu:
                datagrams.append(current)
                current = b""
            current += record
            continue
        epoch = epoch_of(message.type)
        overhead = records.overhead(epoch) + HEADER_SIZE
        offset, end = 0, len(message.body)
        while True:
            room = mtu - len(current) - overhead
            if current and room < min(end - offset, MIN_FRAGMENT):
                datagrams.append(current)
                current = b""
                continue
            current += records.encode(ContentType.HANDSHAKE, epoch, message.fragment(offset, room).encode())
            offset += room
            if offset >= end:
                break
    return [*datagrams, current]


class _Partial:
    """A message of which pieces have come, joined where they touch, so that each byte received is handled once.

    Memory grows with the bytes received, never with the length announced.
    """

    def __init__(self, fragment: Fragment) -> None:
        self.type = fragment.type
        self.length = fragment.length
        self.held = 0
        self._starts: list[int] = []
        self._pieces: list[bytearray] = []
        """Neither overlapping nor touching, in order; each begins at the same place of `_starts`."""

    def fits(self, fragment: Fragment) -> bool:
        """Tell whether this may be a piece of the same message, and there is room for it."""
        if fragment.type != self.type or fragment.length != self.length:
            return False
        return len(self._pieces) < MAX_PIECES or self._touched(fragment) != (0, 0)

    def add(self, fragment: Fragment) -> None:
        """Join a fragment with what it overlaps or touches; where they differ, the fragment counts."""
        first, last = self._touched(fragment)
        data, start = bytearray(fragment.data), fragment.offset
        if first < last:
            before = self._pieces[first][: max(0, start - self._starts[first])]
            after = self._pieces[last - 1][max(0, start + len(data) - self._starts[last - 1]) :]
            data, start = before + data + after, min(start, self._starts[first])
        else:
            first = last = bisect_left(self._starts, start)
        self.held += len(data) - sum(map(len, self._pieces[first:last]))
        self._starts[first:last], self._pieces[first:last] = [start], [data]

    def assemble(self) -> bytes | None:
        """Return the body, or None while there are holes."""
        whole = self.held == self.length and len(self._pieces) == 1
        return bytes(self._pieces[0]) if whole else None

    def _touched(self, fragment: Fragment) -> tuple[int, int]:
        """Return the range of pieces that a fragment overlaps or touches; (0, 0) if there are none."""
        last = bisect_right(self._starts, fragment.offset + len(fragment.data))
        first = bisect_left(self._starts, fragment.offset)
        if first and self._starts[first - 1] + len(self._pieces[first - 1]) >= fragment.offset:
            first -= 1
        return (first, last) if first < last else (0, 0)


class HandshakeReassembler:
    """Puts the peer's messages together and in order.

    Whatever contradicts what is held, or finds no room beside it, takes its place. The peer sends everything again
    until it is answered, and so gets through; a stranger's fragment that came first would otherwise bar its way.
    """

    def __init__(self) -> None:
        self._next_sequence = 0
        self._partial: dict[int, _Partial] = {}
        self._held = 0

    def push(self, fragment: Fragment) -> bool:
        """Take a fragment; tell whether it was of use. What is done already is not."""
        ahead = fragment.sequence - self._next_sequence
        if not 0 <= ahead < MAX_AHEAD or fragment.length > MAX_MESSAGE:
            return False
        while self._held + len(fragment.data) > MAX_HELD:
            self._forget(max(self._partial, key=lambda sequence: self._partial[sequence].held))
        partial = self._partial.get(fragment.sequence)
        if partial is not None and not partial.fits(fragment):
            self._forget(fragment.sequence)
            partial = None
        if partial is None:
            partial = self._partial[fragment.sequence] = _Partial(fragment)
        before = partial.held
        partial.add(fragment)
        self._held += partial.held - before
        return True

    @property
    def held(self) -> int:
        """Bytes of messages that are not whole, or whose turn has not come."""
        return self._held

    @property
    def next_sequence(self) -> int:
        return self._next_sequence

    def restore(self, next_sequence: int) -> None:
        """Begin again with this message, and nothing held."""
        self._next_sequence = next_sequence
        self._partial.clear()
        self._held = 0

    def pop(self) -> HandshakeMessage | None:
        """Return the next message in order, once it is whole."""
        partial = self._partial.get(self._next_sequence)
        body = partial.assemble() if partial else None
        if partial is None or body is None:
            return None
        message = HandshakeMessage(partial.type, self._next_sequence, body)
        self._forget(self._next_sequence)
        self._next_sequence += 1
        return message

    def _forget(self, sequence: int) -> None:
        self._held -= self._partial.pop(sequence).held


class RetransmissionTimer:
    """When to send the current flight again, and how long the peer takes to answer. Seconds.

    Only this timer repeats a flight, not a repeated flight of the peer: it is the faster of the two, and a forged or
    duplicated datagram then makes nobody talk.
    """

    def __init__(self) -> None:
        self.deadline: float | None = None
        self.round_trip: float | None = None
        self._timeout = FIRST_TIMEOUT
        self._sent_at: float | None = None

    def sent(self, now: float) -> None:
        """A new flight left that wants an answer."""
        if self.round_trip is not None:
            self._timeout = min(max(MIN_TIMEOUT, 2 * self.round_trip), MAX_TIMEOUT)
        else:
            self._timeout = FIRST_TIMEOUT
        self._sent_at = now
        self.deadline = now + self._timeout

    def retransmitted(self, now: float) -> None:
        """The flight left once more; an answer no longer tells which of the two it answers (RFC 6298 §3)."""
        self._timeout = min(2 * self._timeout, MAX_TIMEOUT)
        self._sent_at = None
        self.deadline = now + self._timeout

    def answer_received(self, now: float) -> None:
        """The first message of the answer came."""
        if self._sent_at is not None:
            self.round_trip = now - self._sent_at
            self._sent_at = None

    def stop(self) -> None:
        """The answer is complete, or nothing matters any more."""
        self.deadline = None
