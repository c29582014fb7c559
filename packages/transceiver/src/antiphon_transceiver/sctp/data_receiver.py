"""What we receive: DATA chunks within our window, put together; and the SACKs that say so."""

from antiphon_common.errors import RemoteProtocolError
from antiphon_transceiver.sctp.chunks import Data, ForwardTsn, Sack
from antiphon_transceiver.sctp.reassembly import MAX_MESSAGE_SIZE, MessageReassembler, StreamMessage, total_size
from antiphon_transceiver.sctp.received_tsns import ReceivedTsns

MAX_STREAMS = 1024
"""Streams each way, as Chromium has them; a data channel takes one."""

RECEIVE_BUFFER = 2 * MAX_MESSAGE_SIZE
"""Bytes we hold for the peer, and advertise: a longest message and as much again behind it."""

MAX_HELD_BYTES = RECEIVE_BUFFER + MAX_MESSAGE_SIZE
"""What a sender may make of that by filling holes: it does not count against our window what it takes for lost."""


class DataReceiverCounters:
    """Chunks that were dropped."""

    def __init__(self) -> None:
        self.duplicates = 0
        self.out_of_window = 0
        self.wrong_stream = 0


class DataReceiver:
    """The receiving half of an association."""

    def __init__(self) -> None:
        self.counters = DataReceiverCounters()
        self.tsns = ReceivedTsns(0)
        self.reassembler = MessageReassembler()
        self._unread = 0
        """Bytes of messages that were delivered but not released."""
        self._advertised = RECEIVE_BUFFER

    def begin(self, initial_tsn: int) -> None:
        """Expect the peer's chunks from its initial TSN on."""
        self.tsns = ReceivedTsns(initial_tsn)

    @property
    def a_rwnd(self) -> int:
        """Bytes the peer may still send."""
        return max(0, RECEIVE_BUFFER - self.reassembler.size - self._unread)

    def receive(self, data: Data) -> list[StreamMessage]:
        """Take a chunk and return the messages it lets out; raise RemoteProtocolError if the peer sends nonsense."""
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
        """Wait no more for what the peer abandoned, and return the messages that lets out."""
        tsns = self.tsns
        tsns.pending = tsns.due = True
        if not tsns.skip_to(tsns.extend(forward.cumulative_tsn)):
            return []
        streams = [skipped for skipped in forward.streams if skipped[0] < MAX_STREAMS]
        return self._deliver(self.reassembler.skip(tsns.cumulative, streams))

    def release(self, size: int) -> bool:
        """Take note that `size` bytes of messages have been consumed; tell whether the peer should hear of it."""
        self._unread -= size
        # Only an opening that is worth a packet (RFC 9260 §6.2, silly window syndrome).
        if self._advertised < RECEIVE_BUFFER // 2 <= self.a_rwnd:
            self.tsns.due = True
        return self.tsns.due

    def sack(self, room: int) -> Sack:
        """Return the SACK of now, of at most `room` bytes."""
        self._advertised = self.a_rwnd
        return self.tsns.sack(self._advertised, room)

    def _has_room(self, tsn: int, size: int) -> bool:
        tsns, reassembler = self.tsns, self.reassembler
        limit = MAX_HELD_BYTES if tsn < tsns.highest else RECEIVE_BUFFER
        if reassembler.size + self._unread + size <= limit and not reassembler.full:
            return tsns.has_room(tsn)
        if tsn == tsns.cumulative + 1 and not self._unread:
            # Only the peer could make room, and even what everything waits for does not fit.
            raise RemoteProtocolError("more data that cannot be delivered than the window allows")
        return False

    def _deliver(self, messages: list[StreamMessage]) -> list[StreamMessage]:
        if messages:
            self._unread += total_size(messages)
        return messages
