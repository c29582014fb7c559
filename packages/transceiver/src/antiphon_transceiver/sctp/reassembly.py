"""Messages put together from DATA chunks and into order (RFC 9260 §6.5, §6.6 and §6.9, RFC 3758 §3.6)."""

from typing import NamedTuple

from antiphon_common.errors import RemoteProtocolError
from antiphon_common.sequence import extend16
from antiphon_transceiver.sctp.chunks import Data

MAX_MESSAGE_SIZE = 1 << 18
"""Bytes of a message, as our SDP announces it: what Chromium announces."""

MAX_HELD = 16384
"""Chunks held, however small: twice as many as there may be TSNs behind a hole."""


class StreamMessage(NamedTuple):
    """A whole message of one stream."""

    stream: int
    ppid: int
    data: bytes


class _Run:
    """Chunks with consecutive TSNs of one message, which may lack its beginning, its end, or both."""

    __slots__ = ("beginning", "chunks", "ending", "first", "last", "size")

    def __init__(self, tsn: int, chunk: Data) -> None:
        self.first = self.last = tsn
        self.chunks = [chunk]
        self.size = len(chunk.payload)
        self.beginning = chunk.beginning
        self.ending = chunk.ending

    def continues(self, other: "_Run") -> bool:
        """Tell whether `other`, which has the next TSN, is of the same message."""
        mine, its = self.chunks[-1], other.chunks[0]
        return (
            not self.ending
            and not other.beginning
            and (mine.stream, mine.ssn, mine.unordered) == (its.stream, its.ssn, its.unordered)
        )

    def extend(self, other: "_Run") -> None:
        self.last = other.last
        self.chunks += other.chunks
        self.size += other.size
        self.ending = other.ending

    def message(self) -> StreamMessage:
        first = self.chunks[0]
        if len(self.chunks) == 1:
            return StreamMessage(first.stream, first.ppid, first.payload)
        return StreamMessage(first.stream, first.ppid, b"".join(chunk.payload for chunk in self.chunks))


class _Stream:
    """An incoming stream: the next message of its order, and those that came before their turn."""

    __slots__ = ("next_ssn", "waiting")

    def __init__(self) -> None:
        self.next_ssn = 0
        self.waiting: dict[int, StreamMessage] = {}


class Reassembler:
    """Holds what cannot be delivered yet. `size` in bytes and `chunks` say how much that is."""

    def __init__(self) -> None:
        self.size = 0
        self.chunks = 0
        self._by_first: dict[int, _Run] = {}
        self._by_last: dict[int, _Run] = {}
        self._streams: dict[int, _Stream] = {}

    def push(self, tsn: int, chunk: Data) -> list[StreamMessage]:
        """Take a chunk that is new, and return the messages it lets out.

        Raise RemoteProtocolError when a message grows beyond `MAX_MESSAGE_SIZE`.
        """
        if chunk.beginning and chunk.ending:
            return self._finish(chunk, StreamMessage(chunk.stream, chunk.ppid, chunk.payload))
        run = _Run(tsn, chunk)
        self.size += run.size
        self.chunks += 1
        before = self._by_last.get(tsn - 1)
        if before is not None and before.continues(run):
            self._forget(before)
            before.extend(run)
            run = before
        after = self._by_first.get(tsn + 1)
        if after is not None and run.continues(after):
            self._forget(after)
            run.extend(after)
        if run.size > MAX_MESSAGE_SIZE:
            raise RemoteProtocolError(f"a message of more than {MAX_MESSAGE_SIZE} bytes")
        if run.beginning and run.ending:
            self.size -= run.size
            self.chunks -= len(run.chunks)
            return self._finish(chunk, run.message())
        self._by_first[run.first] = self._by_last[run.last] = run
        return []

    def skip(self, cumulative_tsn: int, streams: tuple[tuple[int, int], ...]) -> list[StreamMessage]:
        """Give up what misses a TSN up to `cumulative_tsn`, and the turn of SSNs skipped; return what that lets out."""
        for run in list(self._by_first.values()):
            lacks_beginning = not run.beginning and run.first - 1 <= cumulative_tsn
            lacks_ending = not run.ending and run.last + 1 <= cumulative_tsn
            if lacks_beginning or lacks_ending:
                self._drop(run)
        delivered = []
        for number, skipped in streams:
            stream = self._streams.setdefault(number, _Stream())
            last = extend16(skipped, stream.next_ssn)
            for ssn in sorted(ssn for ssn in stream.waiting if ssn <= last):
                delivered.append(self._release(stream, ssn))
            stream.next_ssn = max(stream.next_ssn, last + 1)
            delivered += self._in_order(stream)
        return delivered

    def reset_stream(self, number: int) -> None:
        """Begin a stream anew; what still waits there for its turn is dropped."""
        stream = self._streams.pop(number, None)
        if stream is not None:
            for ssn in list(stream.waiting):
                self._release(stream, ssn)

    @property
    def streams(self) -> list[int]:
        """The streams on which anything came in order."""
        return list(self._streams)

    def _finish(self, chunk: Data, message: StreamMessage) -> list[StreamMessage]:
        if chunk.unordered:
            return [message]
        stream = self._streams.get(chunk.stream)
        if stream is None:
            stream = self._streams[chunk.stream] = _Stream()
        ssn = extend16(chunk.ssn, stream.next_ssn)
        if ssn == stream.next_ssn:
            stream.next_ssn += 1
            return [message, *self._in_order(stream)] if stream.waiting else [message]
        if ssn > stream.next_ssn and ssn not in stream.waiting:
            stream.waiting[ssn] = message
            self.size += len(message.data)
            self.chunks += 1
        return []

    def _in_order(self, stream: _Stream) -> list[StreamMessage]:
        delivered = []
        while stream.next_ssn in stream.waiting:
            delivered.append(self._release(stream, stream.next_ssn))
            stream.next_ssn += 1
        return delivered

    def _release(self, stream: _Stream, ssn: int) -> StreamMessage:
        message = stream.waiting.pop(ssn)
        self.size -= len(message.data)
        self.chunks -= 1
        return message

    def _forget(self, run: _Run) -> None:
        del self._by_first[run.first]
        del self._by_last[run.last]

    def _drop(self, run: _Run) -> None:
        self._forget(run)
        self.size -= run.size
        self.chunks -= len(run.chunks)
