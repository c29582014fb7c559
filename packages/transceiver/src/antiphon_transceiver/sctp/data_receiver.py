"""The receiving half of an association: DATA within a_rwnd, reassembly, and SACKs."""

from antiphon_common.errors import RemoteProtocolError
from antiphon_transceiver.sctp.chunks import Data, ForwardTsn, Sack
from antiphon_transceiver.sctp.reassembly import MAX_MESSAGE_SIZE, MessageReassembler, StreamMessage, total_size
from antiphon_transceiver.sctp.received_tsns import ReceivedTsns

MAX_STREAMS = 1024
"""Streams in each direction, as in Chromium; a data channel takes one."""

RECEIVE_BUFFER = 2 * MAX_MESSAGE_SIZE
"""Bytes held for the peer, and advertised as a_rwnd: two messages of the maximum size."""

MAX_HELD_BYTES = RECEIVE_BUFFER + MAX_MESSAGE_SIZE
"""Bytes held at most. A sender does not count lost chunks against a_rwnd, and exceeds it when it fills gaps."""


class DataReceiverCounters:
    """DATA chunks that were dropped, by reason. `DataReceiver.counters` holds one."""

    def __init__(self) -> None:
        self.duplicates = 0
        self.out_of_window = 0
        self.wrong_stream = 0


class DataReceiver:
    """The receiving half of an association.

    Pass it DATA and FORWARD TSN; it returns the messages that can be delivered. `release` their bytes once they are
    consumed. `tsns` decides when a `sack` is due.
    """

    def __init__(self) -> None:
        self.counters = DataReceiverCounters()
        self.tsns = ReceivedTsns(0)
        self.reassembler = MessageReassembler()
        self._unread = 0
        """Bytes of messages that were delivered and not released."""
        self._advertised = RECEIVE_BUFFER

    def begin(self, initial_tsn: int) -> None:
        """Expect the peer's chunks, beginning with its initial TSN."""
        self.tsns = ReceivedTsns(initial_tsn)

    @property
    def a_rwnd(self) -> int:
        """Bytes that the peer may still send (the advertised receiver window credit)."""
        return max(0, RECEIVE_BUFFER - self.reassembler.size - self._unread)

    def receive(self, data: Data) -> list[StreamMessage]:
        """Handle a chunk, and return the messages that can now be delivered.

        Raises:
            RemoteProtocolError: A message is too long, or data that cannot be delivered exceeds a_rwnd.
        """
        tsns = self.tsns
        tsn = tsns.extend(data.tsn)
        if not tsns.is_new(tsn):
            self.counters.duplicates += 1
            return []
        if not self._has_room(tsn, len(data.payload)):
            self.counters.out_of_window += 1
            tsns.pending = tsns.due = True
            return []
        tsns.add(tsn)
        if data.stream >= MAX_STREAMS:
            self.counters.wrong_stream += 1
            return []
        return self._deliver(self.reassembler.push(tsn, data))

    def skip(self, forward: ForwardTsn) -> list[StreamMessage]:
        """Skip what the peer abandoned (RFC 3758 §3.6), and return the messages that can now be delivered."""
        tsns = self.tsns
        tsns.pending = tsns.due = True
        if not tsns.skip_to(tsns.extend(forward.cumulative_tsn)):
            return []
        streams = [skipped for skipped in forward.streams if skipped[0] < MAX_STREAMS]
        return self._deliver(self.reassembler.skip(tsns.cumulative, streams))

    def release(self, size: int) -> bool:
        """Release `size` bytes of consumed messages. Return True if a SACK is due for it."""
        self._unread -= size
        # Report only a large increase (RFC 9260 §6.2, silly window syndrome).
        if self._advertised < RECEIVE_BUFFER // 2 <= self.a_rwnd:
            self.tsns.due = True
        return self.tsns.due

    def sack(self, room: int) -> Sack:
        """Return the present SACK, of at most `room` bytes."""
        self._advertised = self.a_rwnd
        return self.tsns.sack(self._advertised, room)

    def _has_room(self, tsn: int, size: int) -> bool:
        tsns, reassembler = self.tsns, self.reassembler
        limit = MAX_HELD_BYTES if tsn < tsns.highest else RECEIVE_BUFFER
        if reassembler.size + self._unread + size <= limit and not reassembler.full:
            return tsns.has_room(tsn)
        if tsn == tsns.cumulative + 1 and not self._unread:
            # Only the peer can make room, and even the chunk that all others wait for does not fit.
            raise RemoteProtocolError("more data that cannot be delivered than a_rwnd allows")
        return False

    def _deliver(self, messages: list[StreamMessage]) -> list[StreamMessage]:
        if messages:
            self._unread += total_size(messages)
        return messages
