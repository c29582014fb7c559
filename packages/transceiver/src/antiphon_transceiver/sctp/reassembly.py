"""Reassembly and ordering of messages (RFC 9260 §6.5, §6.6, §6.9, RFC 3758 §3.6)."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

from antiphon_common.errors import RemoteProtocolError
from antiphon_common.sequence import extend16
from antiphon_transceiver.sctp.chunks import Data
from antiphon_transceiver.sctp.received_tsns import MAX_AHEAD, MAX_RANGES

MAX_MESSAGE_SIZE = 1 << 18
"""Bytes of the longest message, as our SDP announces it and Chromium does."""

MAX_HELD = 2 * MAX_AHEAD
"""Chunks held: twice as many as there may be TSNs after a gap."""

MAX_PARTIAL = 3 * MAX_RANGES
"""Incomplete messages held at once. A gap affects two at most; the others are messages that the sender abandoned. A
FORWARD TSN may drop all of them at once."""


class StreamMessage(NamedTuple):
    """A reassembled message of one stream. `DataTransfer` queues it as an event."""

    stream: int
    ppid: int
    data: bytes


class _Run:
    """Fragments of one message with consecutive TSNs. The message's beginning, end, or both may be missing."""

    __slots__ = ("beginning", "ending", "first", "key", "last", "payloads", "ppid", "size")

    def __init__(self, tsn: int, chunk: Data) -> None:
        self.first = self.last = tsn
        self.key = (chunk.stream, chunk.ssn, chunk.unordered)
        self.ppid = chunk.ppid
        self.payloads = [chunk.payload]
        self.size = len(chunk.payload)
        self.beginning = chunk.beginning
        self.ending = chunk.ending

    def continues(self, other: "_Run") -> bool:
        """Return True if `other`, which has the next TSN, is of the same message."""
        return not self.ending and not other.beginning and self.key == other.key

    def extend(self, other: "_Run") -> None:
        self.last = other.last
        self.payloads += other.payloads
        self.size += other.size
        self.ending = other.ending


class MessageReassembler:
    """Holds fragments and messages that cannot be delivered yet: `size` bytes in `chunks` chunks.

    `push` each new chunk; it returns the messages that can be delivered. `skip` what the peer abandoned.
    """

    def __init__(self) -> None:
        self.size = 0
        self.chunks = 0
        self._firsts: list[int] = []
        """The keys of `_by_first` in ascending order."""
        self._by_first: dict[int, _Run] = {}
        self._by_last: dict[int, _Run] = {}
        self._next_ssn: dict[int, int] = {}
        """The unbounded SSN that is next in each stream."""
        self._waiting: dict[int, dict[int, StreamMessage]] = {}
        """By stream and SSN, messages that are out of order."""

    @property
    def full(self) -> bool:
        """Whether no more chunks can be held."""
        return self.chunks >= MAX_HELD or len(self._firsts) >= MAX_PARTIAL

    def push(self, tsn: int, chunk: Data) -> list[StreamMessage]:
        """Add a new chunk, and return the messages that can now be delivered.

        Raises:
            RemoteProtocolError: A message has more than `MAX_MESSAGE_SIZE` bytes.
        """
        if chunk.beginning and chunk.ending:
            return self._finish(chunk, StreamMessage(chunk.stream, chunk.ppid, chunk.payload))
        run = _Run(tsn, chunk)
        self.size += run.size
        self.chunks += 1
        before = self._by_last.get(tsn - 1)
        if before is not None and before.continues(run):
            del self._by_last[before.last]
            before.extend(run)
            run = before
        after = self._by_first.get(tsn + 1)
        if after is not None and run.continues(after):
            self._remove(after)
            run.extend(after)
        if run.size > MAX_MESSAGE_SIZE:
            raise RemoteProtocolError(f"a message of more than {MAX_MESSAGE_SIZE} bytes")
        if run.first not in self._by_first:
            self._by_first[run.first] = run
            insort(self._firsts, run.first)
        self._by_last[run.last] = run
        if not (run.beginning and run.ending):
            return []
        self._remove(run)
        self.size -= run.size
        self.chunks -= len(run.payloads)
        return self._finish(chunk, StreamMessage(chunk.stream, run.ppid, b"".join(run.payloads)))

    def skip(self, cumulative_tsn: int, streams: Sequence[tuple[int, int]]) -> list[StreamMessage]:
        """Drop messages that miss a TSN up to `cumulative_tsn`, skip their SSNs, and return the messages now in order.

        If a stream is named more than once, its last SSN counts.
        """
        self._drop_partial(cumulative_tsn)
        delivered: list[StreamMessage] = []
        for stream, skipped in dict(streams).items():
            next_ssn = self._next_ssn.get(stream, 0)
            last = extend16(skipped, next_ssn)
            if last < next_ssn:
                continue  # overtaken by later messages
            waiting = self._waiting.get(stream)
            if waiting:
                early = sorted([ssn for ssn in waiting if ssn <= last])
                delivered += self._release([waiting.pop(ssn) for ssn in early])
            self._next_ssn[stream] = last + 1
            if waiting:
                delivered += self._in_order(stream, waiting)
            elif waiting is not None:
                del self._waiting[stream]
        return delivered

    def reset_streams(self, streams: Collection[int]) -> None:
        """Reset streams: expect SSN 0, and drop messages that are out of order."""
        for stream in streams:
            if stream in self._next_ssn:
                del self._next_ssn[stream]
                if stream in self._waiting:
                    self._release(list(self._waiting.pop(stream).values()))

    @property
    def streams(self) -> Collection[int]:
        """The streams with ordered messages."""
        return self._next_ssn.keys()

    def _finish(self, chunk: Data, message: StreamMessage) -> list[StreamMessage]:
        if chunk.unordered:
            return [message]
        stream = chunk.stream
        next_ssn = self._next_ssn.setdefault(stream, 0)
        waiting = self._waiting.get(stream)
        if chunk.ssn == next_ssn & 0xFFFF:
            self._next_ssn[stream] = next_ssn + 1
            return [message] if waiting is None else [message, *self._in_order(stream, waiting)]
        ssn = extend16(chunk.ssn, next_ssn)
        if waiting is None:
            waiting = {}
        if ssn > next_ssn and ssn not in waiting:
            self._waiting[stream] = waiting
            waiting[ssn] = message
            self.size += len(message.data)
            self.chunks += 1
        return []

    def _in_order(self, stream: int, waiting: dict[int, StreamMessage]) -> list[StreamMessage]:
        """Return the messages that are now in order."""
        first = last = self._next_ssn[stream]
        while last in waiting:
            last += 1
        self._next_ssn[stream] = last
        delivered = self._release([waiting.pop(ssn) for ssn in range(first, last)])
        if not waiting:
            del self._waiting[stream]
        return delivered

    def _release(self, messages: list[StreamMessage]) -> list[StreamMessage]:
        """Stop holding these messages, and return them."""
        self.size -= total_size(messages)
        self.chunks -= len(messages)
        return messages

    def _drop_partial(self, cumulative_tsn: int) -> None:
        """Drop incomplete messages that miss a fragment up to `cumulative_tsn`."""
        end = bisect_right(self._firsts, cumulative_tsn + 1)
        kept = []
        for first in self._firsts[:end]:
            run = self._by_first[first]
            if run.beginning and run.last >= cumulative_tsn:
                kept.append(first)  # its next fragment was not abandoned
                continue
            del self._by_first[first], self._by_last[run.last]
            self.size -= run.size
            self.chunks -= len(run.payloads)
        self._firsts[:end] = kept

    def _remove(self, run: _Run) -> None:
        del self._by_first[run.first], self._by_last[run.last]
        del self._firsts[bisect_left(self._firsts, run.first)]


def total_size(messages: Iterable[StreamMessage]) -> int:
    """Return the bytes of all messages."""
    return sum(map(len, map(_data_of, messages)))


_data_of = attrgetter("data")
