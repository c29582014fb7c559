"""Messages that arrive before the OPEN of their channel."""

from collections import deque
from collections.abc import Container

from antiphon_transceiver.sctp.reassembly import StreamMessage, total_size

MAX_EARLY_MESSAGES = 16
MAX_EARLY_BYTES = 1 << 16
"""Messages and bytes kept of all channels together: what a client sends in the round trip before our ACK."""


class EarlyMessages:
    """Keeps messages of streams without a channel until an OPEN is received.

    `push` each message, and `pop` those of a stream when its channel is open. RFC 8832 §6 requires ordered messages
    until the ACK, which cannot overtake the OPEN. Some stacks send unordered ones from the beginning.
    """

    def __init__(self) -> None:
        self._messages: deque[StreamMessage] = deque()
        self._size = 0

    def push(self, message: StreamMessage) -> None:
        """Keep a message, and drop the oldest if there are too many. A message longer than the limit is dropped."""
        if len(message.data) > MAX_EARLY_BYTES:
            return
        self._messages.append(message)
        self._size += len(message.data)
        while self._size > MAX_EARLY_BYTES or len(self._messages) > MAX_EARLY_MESSAGES:
            self._size -= len(self._messages.popleft().data)

    def pop(self, stream: int) -> list[StreamMessage]:
        """Remove and return the messages of a stream."""
        popped = [message for message in self._messages if message.stream == stream]
        if popped:
            self.discard((stream,))
        return popped

    def discard(self, streams: Container[int]) -> None:
        """Drop the messages of streams that were reset."""
        if self._messages:
            self._messages = deque([message for message in self._messages if message.stream not in streams])
            self._size = total_size(self._messages)
