"""What we send: messages cut into DATA chunks, what is in flight, what was lost or abandoned.

TSNs here are unbounded, beginning at the initial TSN; only chunks have them shortened to 32 bits.
"""

from collections import deque
from heapq import heappop, heappush

import msgspec

from antiphon_common.sequence import extend32
from antiphon_transceiver.sctp.chunks import DATA_HEADER_SIZE, Data, ForwardTsn, Sack
from antiphon_transceiver.sctp.congestion import CongestionControl
from antiphon_transceiver.sctp.rto import RetransmissionTimeout

MAX_OUTSTANDING = 4096
"""Chunks in flight or waiting to be sent again, so that a SACK never makes us look at more of them."""

MIN_FRAGMENT = 256
"""Bytes of a message that are worth a chunk of their own at the end of a packet."""

MISSES_UNTIL_LOST = 3
"""SACKs that miss a chunk until it counts as lost (RFC 9260 §7.2.4)."""

_MASK = 0xFFFFFFFF


class OutboundMessage(msgspec.Struct, eq=False):
    """A message from when it is queued until its last chunk is acknowledged. Times are in seconds."""

    stream: int
    ppid: int
    data: bytes
    unordered: bool
    max_retransmits: int | None
    max_lifetime: float | None
    expires_at: float | None = None
    ssn: int = 0
    offset: int = 0
    """Bytes that have become chunks."""
    first_tsn: int = -1
    abandoned: bool = False

    def is_expired(self, now: float) -> bool:
        return self.expires_at is not None and now >= self.expires_at


class SentChunk:
    """A chunk that has its TSN. One without `wire` stands for the part of an abandoned message that never left."""

    __slots__ = (
        "acked",
        "in_flight",
        "lost",
        "message",
        "misses",
        "sent_at",
        "sent_before",
        "size",
        "transmissions",
        "tsn",
        "wire",
    )

    def __init__(self, tsn: int, message: OutboundMessage, wire: bytes, size: int) -> None:
        self.tsn = tsn
        self.message = message
        self.wire = wire
        self.size = size
        self.sent_at = 0.0
        self.sent_before = tsn
        """The highest TSN sent when this was sent last: a SACK of one beyond it tells that this one is missing."""
        self.transmissions = 0
        self.misses = 0
        self.in_flight = False
        self.acked = False
        self.lost = False


class OutboundCounters:
    def __init__(self) -> None:
        self.chunks = 0
        self.retransmissions = 0
        self.timeouts = 0
        self.abandoned = 0
        """Messages given up, as their reliability asked."""


class Outbound:
    """The sending half of an association.

    `push` queues, `take` fills packets, `receive_sack` and `handle_timeout` find out what became of it. Messages leave
    in the order of `push`: without interleaving (RFC 8260) the chunks of one message have consecutive TSNs.
    """

    def __init__(self, initial_tsn: int, congestion: CongestionControl, rto: RetransmissionTimeout) -> None:
        self.counters = OutboundCounters()
        self.peer_window = 0
        self.forward_tsn_supported = False
        self.deadline: float | None = None
        """The T3-rtx timer, while anything is outstanding."""
        self.unanswered = 0
        """Times in a row that it went off."""
        self.buffered_bytes = 0
        self.cumulative_tsn = initial_tsn - 1
        """The peer has all up to this one."""
        self._next_tsn = initial_tsn
        self._advanced_tsn = initial_tsn - 1
        """The Advanced.Peer.Ack.Point of RFC 3758 §3.5: beyond the above by what was abandoned."""
        self._forward_due = False
        self._forwarded_at = 0.0
        self._congestion = congestion
        self._rto = rto
        self._flight = 0
        self._queue: deque[OutboundMessage] = deque()
        self._without_deadline: list[OutboundMessage] = []
        self._outstanding: deque[SentChunk] = deque()
        """Every chunk above `cumulative_tsn`, without a hole."""
        self._lost: list[int] = []
        """Heap of the TSNs to send again; those that came after all are skipped."""
        self._has_gap_acks = False
        self._rescue = False
        """One packet may leave in spite of the congestion window (RFC 9260 §7.2.4 rule 3)."""
        self._timed_tsn: int | None = None
        self._last_sent_at = 0.0
        self._next_ssn: dict[int, int] = {}
        self._buffered: dict[int, int] = {}

    @property
    def idle(self) -> bool:
        """Whether everything has been acknowledged or abandoned."""
        return not self._queue and not self._outstanding

    @property
    def messages(self) -> int:
        """Messages not yet wholly sent."""
        return len(self._queue)

    def buffered(self, stream: int) -> int:
        """Return the bytes of a stream that the peer has not acknowledged."""
        return self._buffered.get(stream, 0)

    def push(self, message: OutboundMessage) -> None:
        self._queue.append(message)
        self._account(message.stream, len(message.data))
        if message.max_lifetime is not None:
            self._without_deadline.append(message)

    def reset_stream(self, stream: int) -> None:
        """Begin the stream's sequence numbers anew."""
        self._next_ssn.pop(stream, None)

    def start_lifetimes(self, now: float) -> None:
        """Let the lifetimes of messages begin that were pushed since the last call."""
        for message in self._without_deadline:
            message.expires_at = now + (message.max_lifetime or 0.0)
        self._without_deadline.clear()

    # Sending.

    def take(self, room: int, now: float, *, empty: int) -> list[bytes]:
        """Return the chunks that go into a packet with `room` bytes left; one without any chunk yet has `empty`."""
        taken: list[bytes] = []
        while True:
            wire = (
                self._take_forward_tsn(room, now)
                or self._take_lost(room, now, oversize=room == empty)
                or self._take_new(room, now, empty)
                or self._take_forward_tsn(room, now)  # of what has just been found expired
            )
            if not wire:
                break
            taken.append(wire)
            room -= len(wire)
        if taken:
            self._rescue = False
            self._last_sent_at = now
        return taken

    def _take_lost(self, room: int, now: float, *, oversize: bool) -> bytes:
        while self._lost:
            chunk = self._find(self._lost[0])
            if chunk is None or not chunk.lost:
                heappop(self._lost)
            elif chunk.message.is_expired(now) and self.forward_tsn_supported:
                self._abandon(chunk.message)
            elif (self._flight and (self.peer_window == 0 or not (self._rescue or self._fits_window()))) or (
                len(chunk.wire) > room and not oversize
            ):
                return b""
            else:
                heappop(self._lost)
                self.counters.retransmissions += 1
                self._sent(chunk, now)
                if chunk is self._outstanding[0]:
                    self.deadline = now + self._rto.value  # RFC 9260 §6.3.2 R3
                return chunk.wire
        return b""

    def _take_new(self, room: int, now: float, empty: int) -> bytes:
        message = self._first_alive(now)
        if message is None or len(self._outstanding) >= MAX_OUTSTANDING:
            return b""
        if not self._outstanding and now - self._last_sent_at > self._rto.value:
            self._congestion.resumed()
        remaining = len(message.data) - message.offset
        size = min(remaining, room // 4 * 4 - DATA_HEADER_SIZE)
        if size < remaining and room < empty and (size < MIN_FRAGMENT or remaining + DATA_HEADER_SIZE <= empty):
            return b""  # better off in the next packet
        # One chunk may always be in flight, to see whether a window that is shut has opened (RFC 9260 §6.1 A).
        needed = self._flight + DATA_HEADER_SIZE + size
        if self._flight and (needed > self.peer_window or not self._fits_window()):
            return b""
        return self._cut(message, size, now)

    def _fits_window(self) -> bool:
        return self._flight < self._congestion.window

    def _first_alive(self, now: float) -> OutboundMessage | None:
        """Return the message to send from, after dropping those that expired before any of it was sent."""
        while self._queue:
            message = self._queue[0]
            if not message.is_expired(now):
                return message
            if message.offset:
                if not self.forward_tsn_supported:
                    return message
                self._abandon(message)
            else:
                self._queue.popleft()
                self._account(message.stream, -len(message.data))
                self.counters.abandoned += 1
        return None

    def _cut(self, message: OutboundMessage, size: int, now: float) -> bytes:
        """Make the next chunk of a message, give it its TSN and count it as sent."""
        beginning = message.offset == 0
        tsn = self._next_tsn
        if beginning:
            message.first_tsn = tsn
            if not message.unordered:
                message.ssn = self._next_ssn.get(message.stream, 0)
                self._next_ssn[message.stream] = message.ssn + 1 & 0xFFFF
        payload = message.data[message.offset : message.offset + size]
        message.offset += size
        ending = message.offset == len(message.data)
        wire = Data(
            tsn & _MASK,
            message.stream,
            message.ssn,
            message.ppid,
            payload,
            beginning,
            ending,
            message.unordered,
        ).encode()
        chunk = SentChunk(tsn, message, wire, size)
        self._append(chunk)
        if ending:
            self._queue.popleft()
        if self._timed_tsn is None:
            self._timed_tsn = tsn
        self.counters.chunks += 1
        self._sent(chunk, now)
        return wire

    def _append(self, chunk: SentChunk) -> None:
        self._outstanding.append(chunk)
        self._next_tsn += 1

    def _sent(self, chunk: SentChunk, now: float) -> None:
        chunk.transmissions += 1
        chunk.sent_at = now
        chunk.sent_before = self._next_tsn - 1
        chunk.misses = 0
        chunk.lost = False
        chunk.in_flight = True
        self._flight += len(chunk.wire)
        if self.deadline is None:
            self.deadline = now + self._rto.value

    # What became of it.

    def receive_sack(self, sack: Sack, now: float) -> bool:
        """Take a SACK; tell whether it makes sense: it may not acknowledge what was never sent."""
        cumulative = extend32(sack.cumulative_tsn, self.cumulative_tsn)
        if cumulative >= self._next_tsn:
            return False
        if cumulative < self.cumulative_tsn:
            return True  # overtaken by a newer one
        self.unanswered = 0
        self.peer_window = sack.window
        flight_before = self._flight
        moved = cumulative > self.cumulative_tsn
        highest, acknowledged = self._receive_cumulative(cumulative, now)
        if sack.gaps or self._has_gap_acks:
            gap_highest, gap_acknowledged = self._receive_gaps(sack.gaps, now)
            highest, acknowledged = max(highest, gap_highest), acknowledged + gap_acknowledged
        if moved:
            self._rto.answered()
            self._congestion.acknowledged(cumulative, acknowledged, flight_before)
        if sack.gaps:
            if moved and self._congestion.recovering:  # RFC 9260 §7.2.4, of SACKs during fast recovery
                highest = max(highest, cumulative + sack.gaps[-1][1])
            self._strike(cumulative + sack.gaps[-1][1], highest)
        self._advance(now)
        if not self._outstanding:
            self.deadline = None
        elif moved:
            self.deadline = now + self._rto.value
        return True

    def acknowledge(self, cumulative_tsn: int, now: float) -> bool:
        """Take what a SHUTDOWN acknowledges, as `receive_sack` does."""
        return self.receive_sack(Sack(cumulative_tsn, self.peer_window), now)

    def handle_timeout(self, now: float) -> None:
        """Give up on all that is in flight, if T3-rtx is due (RFC 9260 §6.3.3)."""
        if self.deadline is None or now < self.deadline:
            return
        self.counters.timeouts += 1
        self.unanswered += 1
        self._rto.back_off()
        self.deadline = now + self._rto.value
        if self.peer_window:  # else it was a probe of a shut window, which says nothing about the path
            self._congestion.timed_out()
        for chunk in list(self._outstanding):
            if chunk.in_flight:
                self._lose(chunk)
        self._advance(now)
        self._forward_due = self._advanced_tsn > self.cumulative_tsn

    def _receive_cumulative(self, cumulative: int, now: float) -> tuple[int, int]:
        """Drop what the peer has; return the highest TSN that is news, or -1, and the bytes of such."""
        highest, size = -1, 0
        while self.cumulative_tsn < cumulative:
            chunk = self._outstanding.popleft()
            self.cumulative_tsn += 1
            if not chunk.acked:
                self._acknowledge(chunk, now)
                highest, size = chunk.tsn, size + len(chunk.wire)
            self._account(chunk.message.stream, -chunk.size)
        return highest, size

    def _receive_gaps(self, gaps: tuple[tuple[int, int], ...], now: float) -> tuple[int, int]:
        """Mark what the gap blocks name and nothing else: a peer may take back what it said (RFC 9260 §6.2.1)."""
        highest, size = -1, 0
        blocks = iter(gaps)
        first, last = next(blocks, (MAX_OUTSTANDING + 1, MAX_OUTSTANDING + 1))
        self._has_gap_acks = bool(gaps)
        for offset, chunk in enumerate(self._outstanding, start=1):
            while offset > last:
                first, last = next(blocks, (MAX_OUTSTANDING + 1, MAX_OUTSTANDING + 1))
            if offset >= first:
                if not chunk.acked:
                    self._acknowledge(chunk, now)
                    highest, size = chunk.tsn, size + len(chunk.wire)
            elif chunk.acked:
                chunk.acked = False
                if not chunk.message.abandoned:
                    chunk.in_flight = True
                    self._flight += len(chunk.wire)
        return highest, size

    def _acknowledge(self, chunk: SentChunk, now: float) -> None:
        chunk.acked = True
        chunk.lost = False
        self._leave_flight(chunk)
        if chunk.tsn == self._timed_tsn:
            if chunk.transmissions == 1:  # else nobody knows which of them it answers (RFC 6298 §3)
                self._rto.measure(now - chunk.sent_at)
            self._timed_tsn = None

    def _strike(self, reported_to: int, highest_new: int) -> None:
        """Count a miss for each chunk that the SACK skips although it has news of later ones (RFC 9260 §7.2.4)."""
        missing = []
        for chunk in self._outstanding:
            if chunk.tsn >= min(reported_to, highest_new):
                break
            # Only news of what was sent after it says anything about a chunk that was sent again. With this a chunk may
            # be found lost more than once, which RFC 9260 leaves to the timer.
            if chunk.in_flight and chunk.sent_before < highest_new:
                chunk.misses += 1
                if chunk.misses >= MISSES_UNTIL_LOST:
                    missing.append(chunk)
        for chunk in missing:
            if chunk.in_flight:
                self._lose(chunk)
        if missing and self._congestion.lost(self._next_tsn - 1):
            self._rescue = True

    def _lose(self, chunk: SentChunk) -> None:
        """Send a chunk again, or give up its message when it was sent often enough."""
        self._leave_flight(chunk)
        if chunk.tsn == self._timed_tsn:
            self._timed_tsn = None
        limit = chunk.message.max_retransmits
        if limit is not None and chunk.transmissions > limit and self.forward_tsn_supported:
            self._abandon(chunk.message)
        else:
            chunk.lost = True
            heappush(self._lost, chunk.tsn)

    def _leave_flight(self, chunk: SentChunk) -> None:
        if chunk.in_flight:
            chunk.in_flight = False
            self._flight -= len(chunk.wire)

    def _find(self, tsn: int) -> SentChunk | None:
        index = tsn - self.cumulative_tsn - 1
        return self._outstanding[index] if index >= 0 else None

    # Partial reliability (RFC 3758).

    def _abandon(self, message: OutboundMessage) -> None:
        """Give up a message of which something was sent; `_advance` then tells the peer."""
        message.abandoned = True
        self.counters.abandoned += 1
        unsent = len(message.data) - message.offset
        if unsent:
            # The peer may have acknowledged all of it so far. Skipping one more TSN tells it that no more will come.
            self._queue.popleft()
            self._append(SentChunk(self._next_tsn, message, b"", unsent))
        index = max(message.first_tsn - self.cumulative_tsn - 1, 0)
        while index < len(self._outstanding) and (chunk := self._outstanding[index]).message is message:
            self._leave_flight(chunk)
            chunk.lost = False
            index += 1
        self._forward_due = self._move_advanced() or self._forward_due

    def _advance(self, now: float) -> None:
        """See whether the peer has to be told, or told again, what it need not wait for (RFC 3758 §3.5 C)."""
        moved = self._move_advanced()
        if self._advanced_tsn == self.cumulative_tsn:
            self._forward_due = False
        elif moved or now - self._forwarded_at > (self._rto.round_trip or self._rto.value):
            self._forward_due = True

    def _move_advanced(self) -> bool:
        before = self._advanced_tsn
        self._advanced_tsn = max(before, self.cumulative_tsn)
        index = self._advanced_tsn - self.cumulative_tsn
        while index < len(self._outstanding) and self._outstanding[index].message.abandoned:
            index += 1
        self._advanced_tsn = self.cumulative_tsn + index
        return self._advanced_tsn > before and index > 0

    def _take_forward_tsn(self, room: int, now: float) -> bytes:
        if not self._forward_due:
            return b""
        skipped: dict[int, int] = {}
        for index in range(self._advanced_tsn - self.cumulative_tsn):
            message = self._outstanding[index].message
            if not message.unordered:
                skipped[message.stream] = message.ssn
        wire = ForwardTsn(self._advanced_tsn & _MASK, tuple(skipped.items())).encode()
        if len(wire) > room:
            return b""
        self._forward_due = False
        self._forwarded_at = now
        if self.deadline is None:
            self.deadline = now + self._rto.value
        return wire

    def _account(self, stream: int, size: int) -> None:
        self.buffered_bytes += size
        left = self._buffered.get(stream, 0) + size
        if left:
            self._buffered[stream] = left
        else:
            self._buffered.pop(stream, None)
