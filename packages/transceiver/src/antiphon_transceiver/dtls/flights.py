"""Flights of handshake messages (RFC 6347 §4.2.3 and §4.2.4): fragments, reassembly, retransmission."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from antiphon_transceiver.dtls.messages import HEADER_SIZE, Fragment, HandshakeMessage, HandshakeType
from antiphon_transceiver.dtls.record import ContentType, RecordLayer

MIN_FRAGMENT = 64
"""Bytes of a body in the smallest fragment that ends a datagram. Smaller ones would not be worth their headers."""

MAX_MESSAGE = 1 << 14
"""Bytes of the longest body accepted: a certificate chain has a few thousand, the longest ClientHello 1,500."""

MAX_AHEAD = 8
"""Incomplete messages held at once. The longest flight has five messages."""

MAX_PIECES = 64
"""Pieces with gaps between them that are held of one message: a body of `MAX_MESSAGE` in datagrams of 300 bytes."""

MAX_HELD = 1 << 15
"""Bytes of pieces held at once, of all messages together."""

FIRST_TIMEOUT = 0.1
"""Seconds to the first retransmission while no round trip has been measured."""

MIN_TIMEOUT = 0.05
MAX_TIMEOUT = 1.0
"""Seconds. RFC 6347 §4.2.4.1 begins with 1 s and ends with 60 s. Here a caller waits for a handshake of few bytes."""


class ChangeCipherSpec(NamedTuple):
    """The ChangeCipherSpec message, which precedes Finished in a flight (RFC 5246 §7.1).

    It is not a handshake message: it has no sequence number and is not in the transcript.
    """

    body: bytes = b"\x01"


Flight = Sequence[HandshakeMessage | ChangeCipherSpec]


def epoch_of(message_type: int) -> int:
    """Return the epoch of a handshake message: 1 for Finished, 0 for all others."""
    return 1 if message_type == HandshakeType.FINISHED else 0


def pack_flight(flight: Flight, records: RecordLayer, mtu: int) -> list[bytes]:
    """Return the datagrams of a flight, of at most `mtu` bytes each. Records get new sequence numbers."""
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
    """An incomplete message and its received fragments. Contiguous fragments are joined, so each byte is copied few
    times.

    Memory grows with the bytes received, not with the length announced.
    """

    def __init__(self, fragment: Fragment) -> None:
        self.type = fragment.type
        self.length = fragment.length
        self.held = 0
        self._starts: list[int] = []
        self._pieces: list[bytearray] = []
        """In order, with gaps between them. `_starts` has the offset of each."""

    def fits(self, fragment: Fragment) -> bool:
        """Return True if this may be a fragment of the same message, and there is room for it."""
        if fragment.type != self.type or fragment.length != self.length:
            return False
        return len(self._pieces) < MAX_PIECES or self._touched(fragment) != (0, 0)

    def add(self, fragment: Fragment) -> None:
        """Join a fragment with the pieces that it overlaps or touches. Its bytes replace those of the pieces."""
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
        """Return the body, or None while a part is missing."""
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
    """Reassembles the handshake messages of the peer and orders them (RFC 6347 §4.2.3).

    `push` fragments and `pop` whole messages. A fragment that contradicts what is held, or has no room, replaces it.
    So an off-path attacker cannot block a message: the peer retransmits its flight until it is answered.
    """

    def __init__(self) -> None:
        self._next_sequence = 0
        self._partial: dict[int, _Partial] = {}
        self._held = 0

    def push(self, fragment: Fragment) -> bool:
        """Add a fragment. Return False if it is of an old message, too far ahead, or of one too long."""
        ahead = fragment.sequence - self._next_sequence
        if not 0 <= ahead < MAX_AHEAD or fragment.length > MAX_MESSAGE:
            return False
        while self._held + len(fragment.data) > MAX_HELD:
            self._remove(max(self._partial, key=lambda sequence: self._partial[sequence].held))
        partial = self._partial.get(fragment.sequence)
        if partial is not None and not partial.fits(fragment):
            self._remove(fragment.sequence)
            partial = None
        if partial is None:
            partial = self._partial[fragment.sequence] = _Partial(fragment)
        before = partial.held
        partial.add(fragment)
        self._held += partial.held - before
        return True

    @property
    def held(self) -> int:
        """Bytes of messages that are incomplete or out of order."""
        return self._held

    @property
    def next_sequence(self) -> int:
        """The message_seq of the next message."""
        return self._next_sequence

    def restore(self, next_sequence: int) -> None:
        """Expect this message next again, and discard what is held."""
        self._next_sequence = next_sequence
        self._partial.clear()
        self._held = 0

    def pop(self) -> HandshakeMessage | None:
        """Return the next message in order, or None while it is incomplete."""
        partial = self._partial.get(self._next_sequence)
        body = partial.assemble() if partial else None
        if partial is None or body is None:
            return None
        message = HandshakeMessage(partial.type, self._next_sequence, body)
        self._remove(self._next_sequence)
        self._next_sequence += 1
        return message

    def _remove(self, sequence: int) -> None:
        self._held -= self._partial.pop(sequence).held


class RetransmissionTimer:
    """The retransmission timer of the current flight (RFC 6347 §4.2.4), and the measured round trip. Seconds.

    Call a method for each thing that happened, and retransmit the flight at `deadline`. A retransmitted flight of the
    peer does not make us retransmit: the timer is faster, and spoofed or duplicated datagrams cause no answer.
    """

    def __init__(self) -> None:
        self.deadline = inf
        self.round_trip: float | None = None
        self._timeout = FIRST_TIMEOUT
        self._sent_at: float | None = None

    def sent(self, now: float) -> None:
        """Start the timer: a new flight was sent that needs an answer."""
        if self.round_trip is not None:
            self._timeout = min(max(MIN_TIMEOUT, 2 * self.round_trip), MAX_TIMEOUT)
        else:
            self._timeout = FIRST_TIMEOUT
        self._sent_at = now
        self.deadline = now + self._timeout

    def retransmitted(self, now: float) -> None:
        """Double the timeout. The answer will no longer measure the round trip (RFC 6298 §3)."""
        self._timeout = min(2 * self._timeout, MAX_TIMEOUT)
        self._sent_at = None
        self.deadline = now + self._timeout

    def answer_received(self, now: float) -> None:
        """Measure the round trip: the first message of the answer was received."""
        if self._sent_at is not None:
            self.round_trip = now - self._sent_at
            self._sent_at = None

    def stop(self) -> None:
        """Stop the timer: the answer is complete, or the endpoint is closed."""
        self.deadline = inf
