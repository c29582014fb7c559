"""The system calls behind a batch socket, in their portable form: one for each datagram."""

import socket
from collections.abc import Sequence
from typing import Protocol

from antiphon_common.link import MAX_LINK_DATAGRAM
from antiphon_common.sockaddr import decode_address, encode_address

BATCH = 64
"""Datagrams for each system call: beyond this the call's own cost no longer shows."""
SO_RXQ_OVFL = 40
"""Socket option of Linux: tell with a datagram how many the kernel has dropped before it."""


class UdpCounters:
    """What one socket moved and lost. `overflowed` datagrams were dropped by the kernel before we read them."""

    __slots__ = ("failed", "overflowed", "oversize", "received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0
        self.overflowed = 0
        self.oversize = 0
        self.failed = 0


class SystemCalls(Protocol):
    """The system calls behind a BatchSocket."""

    def receive(self) -> list[tuple[bytes, bytes]]:
        """Return what waits, at most `BATCH` datagrams with their encoded sources."""

    def send(self, datagrams: Sequence[tuple[bytes, bytes]]) -> None:
        """Send datagrams to encoded destinations; what fails is counted."""


class PlainCalls:
    """One system call for each datagram, where there is no recvmmsg."""

    def __init__(self, sock: socket.socket, counters: UdpCounters) -> None:
        self._socket = sock
        self._counters = counters

    def receive(self) -> list[tuple[bytes, bytes]]:
        batch: list[tuple[bytes, bytes]] = []
        while len(batch) < BATCH:
            try:
                data, source = self._socket.recvfrom(MAX_LINK_DATAGRAM + 1)
            except OSError:  # nothing there, or the late error of something sent before, which is now cleared
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
