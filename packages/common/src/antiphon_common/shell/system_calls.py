"""The system calls of a batch socket, in their portable form: one for each datagram."""

import socket
from collections.abc import Sequence
from typing import Protocol

from antiphon_common.link import MAX_LINK_DATAGRAM
from antiphon_common.sockaddr import decode_address, encode_address

BATCH = 64
"""Datagrams for each system call. With more of them the cost of the call itself is no longer noticeable."""
SO_RXQ_OVFL = 40
"""Socket option of Linux: each datagram comes with the number that the kernel has dropped so far."""


class UdpCounters:
    """Counts the datagrams of one socket. `overflowed` ones were dropped by the kernel before they were read."""

    __slots__ = ("failed", "overflowed", "oversize", "received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0
        self.overflowed = 0
        self.oversize = 0
        self.failed = 0


class SystemCalls(Protocol):
    """The system calls of a `BatchSocket`, which chooses one of the implementations."""

    def receive(self) -> list[tuple[bytes, bytes]]:
        """Return the datagrams that wait, at most `BATCH`, with their encoded sources."""

    def send(self, datagrams: Sequence[tuple[bytes, bytes]]) -> None:
        """Send datagrams to encoded destinations; failures are counted."""


class PlainCalls:
    """One system call for each datagram. A `BatchSocket` uses them where there is no recvmmsg."""

    def __init__(self, sock: socket.socket, counters: UdpCounters) -> None:
        self._socket = sock
        self._counters = counters

    def receive(self) -> list[tuple[bytes, bytes]]:
        batch: list[tuple[bytes, bytes]] = []
        while len(batch) < BATCH:
            try:
                data, source = self._socket.recvfrom(MAX_LINK_DATAGRAM + 1)
            except OSError:  # nothing waits, or an earlier send has failed late, whose error is now cleared
                break
            if len(data) > MAX_LINK_DATAGRAM:
                self._counters.oversize += 1
            else:
                batch.append((data, encode_address(*source[:2])))
        self._counters.received += len(batch)
        return batch

    def send(self, datagrams: Sequence[tuple[bytes, bytes]]) -> None:
        for data, destination in datagrams:
            try:
                self._socket.sendto(data, decode_address(destination))
            except OSError:
                self._counters.failed += 1
            else:
                self._counters.sent += 1
