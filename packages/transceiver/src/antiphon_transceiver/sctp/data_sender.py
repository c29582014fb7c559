"""The sending half of an association: fragmentation, chunks in flight, retransmission, abandoned messages.

TSNs are unbounded here and begin at the initial TSN. In chunks they have 32 bits.
"""

from collections import deque
from collections.abc import Container
from heapq import heappop, heappush
from math import inf

from antiphon_common.sequence import extend32
from antiphon_transceiver.sctp.chunks import DATA_HEADER_SIZE, Data, ForwardTsn, Sack
from antiphon_transceiver.sctp.congestion import CongestionControl
from antiphon_transceiver.sctp.outbound_message import OutboundMessage, SentChunk
from antiphon_transceiver.sctp.rto import RetransmissionTimeout

MAX_OUTSTANDING = 256
"""Chunks in flight or to be retransmitted: 280 KB of full size, or 4 Mbit/s of events of 200 bytes over a round trip of
0.1 s. A SACK visits each of them at most once, and may acknowledge all of them."""

MIN_FRAGMENT = 256
"""Bytes of the smallest fragment that fills the rest of a packet."""

MISSING_REPORTS_UNTIL_LOST = 3
"""Missing reports after which a chunk counts as lost (RFC 9260 §7.2.4)."""

_MASK = 0xFFFFFFFF


class DataSenderCounters:
    """Chunks sent and retransmitted, timeouts, and messages abandoned. `DataSender.counters` holds one."""

    def __init__(self) -> None:
        self.chunks = 0
        self.retransmissions = 0
        self.timeouts = 0
        self.abandoned = 0
        """Messages abandoned because of their limits (RFC 3758)."""


class DataSender:
    """The sending half of an association.

    `push` messages, and `take` chunks for each packet. `receive_sack` and `handle_timeout` decide which chunks are
    retransmitted. Messages are sent in the order of `push`: without interleaving (RFC 8260) the chunks of a message
    have consecutive TSNs.
    """

    def __init__(self, initial_tsn: int, congestion: CongestionControl, rto: RetransmissionTimeout) -> None:
        self.counters = DataSenderCounters()
        self.peer_rwnd = 0
        self.forward_tsn_supported = False
        self.deadline = inf
        """When T3-rtx expires; infinity while nothing is outstanding."""
        self.unanswered = 0
        """Expiries of T3-rtx in a row."""
        self.buffered_bytes = 0
        self.cumulative_tsn = initial_tsn - 1
        """The Cumulative TSN Ack Point: all chunks up to it are acknowledged."""
        self.next_tsn = initial_tsn
        """The TSN of the next new chunk."""
        self._advanced_tsn = initial_tsn - 1
        """The Advanced.Peer.Ack.Point of RFC 3758 §3.5: abandoned chunks follow `cumulative_tsn` up to it."""
        self._forward_due = False
        self._forwarded_at = 0.0
        self._congestion = congestion
        self._rto = rto
        self._flight = 0
        self._queue: deque[OutboundMessage] = deque()
        self._without_deadline: list[OutboundMessage] = []
        self._outstanding: deque[SentChunk] = deque()
        """Every chunk above `cumulative_tsn`, without gaps."""
        self._lost: list[int] = []
        """Heap of the TSNs to retransmit. Those that have been acknowledged are skipped."""
        self._gaps: tuple[tuple[int, int], ...] = ()
        """The gap blocks of the last SACK."""
        self._fast_retransmit = False
        """Whether one packet may be sent regardless of cwnd (RFC 9260 §7.2.4, rule 3)."""
        self._timed_tsn: int | None = None
        self._last_sent_at = 0.0
        self._next_ssn: dict[int, int] = {}
        self._buffered: dict[int, int] = {}

    @property
    def idle(self) -> bool:
        """Whether all data has been acknowledged or abandoned."""
        return not self._queue and not self._outstanding

    @property
    def messages(self) -> int:
        """The number of messages that are not completely sent."""
        return len(self._queue)

    @property
    def busy_streams(self) -> Container[int]:
        """The streams with unacknowledged bytes."""
        return self._buffered.keys()

    def buffered(self, stream: int) -> int:
        """Return the unacknowledged bytes of a stream."""
        return self._buffered.get(stream, 0)

    def push(self, message: OutboundMessage) -> None:
        """Queue a message."""
        self._queue.append(message)
        self._account(message.stream, message.size)
        if message.max_lifetime is not None:
            self._without_deadline.append(message)

    def reset_stream(self, stream: int) -> None:
        """Let the next message of a stream have SSN 0."""
        self._next_ssn.pop(stream, None)

    def start_lifetimes(self, now: float) -> None:
        """Start the lifetimes of the messages pushed since the last call."""
        for message in self._without_deadline:
            message.expires_at = now + (message.max_lifetime or 0.0)
        self._without_deadline.clear()

    # Sending.

    def take(self, room: int, now: float, *, empty: int) -> list[bytes]:
        """Return chunks for a packet with `room` bytes left. A packet without chunks would have `empty` bytes.

        FORWARD TSN comes first, then lost chunks, then new ones.
        """
        taken: list[bytes] = []
        while wire := self._take_next(room, now, empty):
            taken.append(wire)
            room -= len(wire)
        if taken:
            self._fast_retransmit = False
            self._last_sent_at = now
        return taken

    def _take_next(self, room: int, now: float, empty: int) -> bytes:
        if self._forward_due and (wire := self._take_forward_tsn(room, now)):
            return wire
        if self._lost and (wire := self._take_lost(room, now, oversize=room == empty)):
            return wire
        if self._queue and (wire := self._take_new(room, now, empty)):
            return wire
        return self._take_forward_tsn(room, now) if self._forward_due else b""  # for messages that have just expired

    def _take_lost(self, room: int, now: float, *, oversize: bool) -> bytes:
        while self._lost:
            index = self._lost[0] - self.cumulative_tsn - 1
            chunk = self._outstanding[index] if index >= 0 else None
            if chunk is None or not chunk.lost:
                heappop(self._lost)
                if chunk is not None:
                    chunk.queued = False
            elif chunk.message.is_expired(now) and self.forward_tsn_supported:
                self._abandon(chunk.message)
            elif (
                self._flight
                and (self.peer_rwnd == 0 or not (self._fast_retransmit or self._flight < self._congestion.cwnd))
            ) or (chunk.length > room and not oversize):
                return b""
            else:
                heappop(self._lost)
                chunk.queued = False
                self.counters.retransmissions += 1
                self._sent(chunk, now)
                if not index:
                    self.deadline = now + self._rto.value  # RFC 9260 §6.3.2 R3
                return chunk.wire
        return b""

    def _take_new(self, room: int, now: float, empty: int) -> bytes:
        message = self._first_unexpired(now)
        if message is None or len(self._outstanding) >= MAX_OUTSTANDING:
            return b""
        if not self._outstanding and now - self._last_sent_at > self._rto.value:
            self._congestion.resumed()
        remaining = message.size - message.offset
        size = min(remaining, room // 4 * 4 - DATA_HEADER_SIZE)
        if size < remaining and room < empty and (size < MIN_FRAGMENT or remaining + DATA_HEADER_SIZE <= empty):
            return b""  # the next packet has more room
        # One chunk may always be in flight, to probe a peer_rwnd of zero (RFC 9260 §6.1 A).
        flight = self._flight
        if flight and (flight + DATA_HEADER_SIZE + size > self.peer_rwnd or flight >= self._congestion.cwnd):
            return b""
        return self._cut(message, size, now)

    def _first_unexpired(self, now: float) -> OutboundMessage | None:
        """Return the first message of the queue, after dropping those that expired before they were sent."""
        while self._queue:
            message = self._queue[0]
            if message.expires_at is None or now < message.expires_at:
                return message
            if message.offset:
                if not self.forward_tsn_supported:
                    return message
                self._abandon(message)
            else:
                self._queue.popleft()
                self._account(message.stream, -message.size)
                self.counters.abandoned += 1
        return None

    def _cut(self, message: OutboundMessage, size: int, now: float) -> bytes:
        """Return the next chunk of a message, with a new TSN, and mark it as sent."""
        beginning = message.offset == 0
        tsn = self.next_tsn
        if beginning:
            message.first_tsn = tsn
            if not message.unordered:
                message.ssn = self._next_ssn.get(message.stream, 0)
                self._next_ssn[message.stream] = message.ssn + 1 & 0xFFFF
        payload = message.data[message.offset : message.offset + size]
        message.offset += size
        ending = message.offset == message.size
        stream, ssn, ppid = message.stream, message.ssn, message.ppid
        wire = Data(tsn & _MASK, stream, ssn, ppid, payload, beginning, ending, message.unordered).encode()
        chunk = SentChunk(tsn, message, wire, size)
        self._outstanding.append(chunk)
        self.next_tsn += 1
        if ending:
            self._queue.popleft()
        if self._timed_tsn is None:
            self._timed_tsn = tsn
        self.counters.chunks += 1
        self._sent(chunk, now)
        return wire

    def _sent(self, chunk: SentChunk, now: float) -> None:
        chunk.transmissions += 1
        chunk.sent_at = now
        chunk.sent_before = self.next_tsn - 1
        chunk.missing_reports = 0
        chunk.lost = False
        chunk.in_flight = True
        self._flight += chunk.length
        if self.deadline == inf:
            self.deadline = now + self._rto.value

    # Acknowledgement and loss.

    def receive_sack(self, sack: Sack, now: float) -> bool:
        """Handle a SACK. Return False if it acknowledges TSNs that were never sent."""
        cumulative = extend32(sack.cumulative_tsn, self.cumulative_tsn)
        if cumulative >= self.next_tsn:
            return False
        if cumulative < self.cumulative_tsn:
            return True  # overtaken by a newer one
        self.unanswered = 0
        self.peer_rwnd = sack.a_rwnd
        flight_before = self._flight
        moved = cumulative > self.cumulative_tsn
        highest, acknowledged = self._receive_cumulative(cumulative, now)
        self._gaps = sack.gaps
        if sack.gaps:
            gap_highest, gap_acknowledged = self._receive_gaps(now)
            highest, acknowledged = max(highest, gap_highest), acknowledged + gap_acknowledged
        if moved:
            self._rto.answered()
            self._congestion.acknowledged(cumulative, acknowledged, flight_before)
        if sack.gaps:
            if moved and self._congestion.recovering:  # RFC 9260 §7.2.4, of SACKs during fast recovery
                highest = max(highest, cumulative + sack.gaps[-1][1])
            self._count_missing_reports(cumulative + sack.gaps[-1][1], highest)
        self._advance(now)
        if not self._outstanding:
            self.deadline = inf
        elif moved:
            self.deadline = now + self._rto.value
        return True

    def acknowledge(self, cumulative_tsn: int, now: float) -> bool:
        """Handle the cumulative TSN of a SHUTDOWN, as `receive_sack` does."""
        return self.receive_sack(Sack(cumulative_tsn, self.peer_rwnd), now)

    def handle_timeout(self, now: float) -> None:
        """Mark all chunks in flight as lost, if T3-rtx has expired (RFC 9260 §6.3.3)."""
        if now < self.deadline:
            return
        self.counters.timeouts += 1
        self.unanswered += 1
        self._rto.back_off()
        self.deadline = now + self._rto.value
        if self.peer_rwnd:  # otherwise it was a zero window probe, whose loss is no sign of congestion
            self._congestion.timed_out()
        self._handle_reneging()
        for chunk in list(self._outstanding):
            if chunk.in_flight:
                self._lose(chunk)
        self._advance(now)
        self._forward_due = self._advanced_tsn > self.cumulative_tsn

    def _receive_cumulative(self, cumulative: int, now: float) -> tuple[int, int]:
        """Drop acknowledged chunks. Return the highest TSN newly acknowledged, or -1, and the bytes of all such."""
        highest, size = -1, 0
        buffered, freed = self._buffered, 0
        for _ in range(cumulative - self.cumulative_tsn):
            chunk = self._outstanding.popleft()
            if not chunk.acked:
                self._acknowledge(chunk, now)
                highest, size = chunk.tsn, size + chunk.length
            stream = chunk.message.stream
            freed += chunk.size
            buffered[stream] -= chunk.size
            if not buffered[stream]:
                del buffered[stream]
        self.buffered_bytes -= freed
        self.cumulative_tsn = cumulative
        return highest, size

    def _receive_gaps(self, now: float) -> tuple[int, int]:
        """Mark the chunks in the gap ack blocks of the last SACK; return the same as `_receive_cumulative`.

        A chunk of an earlier block stays marked if these blocks omit it: see `_handle_reneging`.
        """
        highest, size = -1, 0
        block = 0
        first, last = self._gaps[0]
        for offset, chunk in enumerate(self._outstanding, start=1):
            if offset > last:
                block += 1
                if block == len(self._gaps):
                    break
                first, last = self._gaps[block]
            if offset >= first and not chunk.acked:
                self._acknowledge(chunk, now)
                highest, size = chunk.tsn, size + chunk.length
        return highest, size

    def _handle_reneging(self) -> None:
        """Put chunks back in flight that earlier gap ack blocks acknowledged and the last omitted (RFC 9260 §6.2.1).

        This is done when T3-rtx expires, as in TCP (RFC 2018 §8), so that a peer cannot cause work with each SACK.
        """
        named = {offset for first, last in self._gaps for offset in range(first, min(last, MAX_OUTSTANDING) + 1)}
        for offset, chunk in enumerate(self._outstanding, start=1):
            if chunk.acked and offset not in named and not chunk.message.abandoned:
                chunk.acked = False
                chunk.in_flight = True
                self._flight += chunk.length

    def _acknowledge(self, chunk: SentChunk, now: float) -> None:
        chunk.acked = True
        chunk.lost = False
        if chunk.in_flight:
            chunk.in_flight = False
            self._flight -= chunk.length
        if chunk.tsn == self._timed_tsn:
            if chunk.transmissions == 1:  # otherwise the SACK may acknowledge any of them (RFC 6298 §3)
                self._rto.measure(now - chunk.sent_at)
            self._timed_tsn = None

    def _count_missing_reports(self, reported_to: int, highest_new: int) -> None:
        """Count a missing report for each chunk below the highest TSN newly acknowledged (RFC 9260 §7.2.4)."""
        missing = []
        for chunk in self._outstanding:
            if chunk.tsn >= min(reported_to, highest_new):
                break
            # For a retransmitted chunk, only the acknowledgement of a chunk sent after it counts. So a chunk may be
            # found lost more than once, which RFC 9260 leaves to the timer.
            if chunk.in_flight and chunk.sent_before < highest_new:
                chunk.missing_reports += 1
                if chunk.missing_reports >= MISSING_REPORTS_UNTIL_LOST:
                    missing.append(chunk)
        for chunk in missing:
            if chunk.in_flight:
                self._lose(chunk)
        if missing and self._congestion.lost(self.next_tsn - 1):
            self._fast_retransmit = True

    def _lose(self, chunk: SentChunk) -> None:
        """Mark a chunk for retransmission, or abandon its message if the limit is reached."""
        self._leave_flight(chunk)
        if chunk.tsn == self._timed_tsn:
            self._timed_tsn = None
        limit = chunk.message.max_retransmits
        if limit is not None and chunk.transmissions > limit and self.forward_tsn_supported:
            self._abandon(chunk.message)
        else:
            chunk.lost = True
            if not chunk.queued:
                chunk.queued = True
                heappush(self._lost, chunk.tsn)

    def _leave_flight(self, chunk: SentChunk) -> None:
        if chunk.in_flight:
            chunk.in_flight = False
            self._flight -= chunk.length

    # Partial reliability (RFC 3758).

    def _abandon(self, message: OutboundMessage) -> None:
        """Abandon a message that is partly sent. `_advance` then reports it to the peer."""
        message.abandoned = True
        self.counters.abandoned += 1
        unsent = message.size - message.offset
        if unsent:
            # The peer may have acknowledged all chunks sent so far. One more skipped TSN ends the message for it.
            self._queue.popleft()
            self._outstanding.append(SentChunk(self.next_tsn, message, b"", unsent))
            self.next_tsn += 1
        index = max(message.first_tsn - self.cumulative_tsn - 1, 0)
        while index < len(self._outstanding) and (chunk := self._outstanding[index]).message is message:
            self._leave_flight(chunk)
            chunk.lost = False
            index += 1
        self._forward_due = self._move_advanced() or self._forward_due

    def _advance(self, now: float) -> None:
        """Decide whether FORWARD TSN must be sent, or sent again (RFC 3758 §3.5 C)."""
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
        if self.deadline == inf:
            self.deadline = now + self._rto.value
        return wire

    def _account(self, stream: int, size: int) -> None:
        self.buffered_bytes += size
        left = self._buffered.get(stream, 0) + size
        if left:
            self._buffered[stream] = left
        else:
            self._buffered.pop(stream, None)
