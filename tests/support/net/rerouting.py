"""A bad path in user space, for callers that cannot be put into a network of their own: they are told its address
instead of the relay's."""

import heapq
import itertools
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import msgspec

from support.net.impairment import ImpairedLink, Impairment

Address = tuple[str, int]

MAX_DATAGRAM = 65_507
LONGEST_WAIT = 0.05
"""Seconds after which the thread looks whether it is to end."""


class Detour:
    """Carries datagrams between callers on loopback and a relay, through one impaired link each way.

    What of a caller is longer than the path's MTU comes through, as its IP fragments would; what of ours is, does not.
    """

    def __init__(self, relay: Address, impairment: Impairment, seed: int) -> None:
        random = Random(seed)
        self.up = ImpairedLink(msgspec.structs.replace(impairment, mtu=MAX_DATAGRAM), random)
        self.down = ImpairedLink(impairment, random)
        self.relay = relay
        self._selector = selectors.DefaultSelector()
        self._front = self._open()
        self.address: Address = self._front.getsockname()
        self._behind: dict[Address, socket.socket] = {}
        """For each caller the socket that the relay knows it by."""
        self._carried: list[tuple[float, int, socket.socket, bytes, Address]] = []
        self._order = itertools.count()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()

    def _open(self, caller: Address | None = None) -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind(("127.0.0.1", 0))
        opened.setblocking(False)
        self._selector.register(opened, selectors.EVENT_READ, caller)
        return opened

    def _run(self) -> None:
        while not self._ended.is_set():
            wait = self._carried[0][0] - time.monotonic() if self._carried else LONGEST_WAIT
            for key, _ in self._selector.select(max(0.0, min(wait, LONGEST_WAIT))):
                assert isinstance(key.fileobj, socket.socket)
                self._receive(key.fileobj, key.data)
            while self._carried and self._carried[0][0] <= time.monotonic():
                _, _, sender, data, target = heapq.heappop(self._carried)
                sender.sendto(data, target)

    def _receive(self, receiver: socket.socket, caller: Address | None) -> None:
        data, source = receiver.recvfrom(2048)
        if caller is not None:
            self._carry(self.down, self._front, data, caller)
        else:
            behind = self._behind.get(source) or self._behind.setdefault(source, self._open(source))
            self._carry(self.up, behind, data, self.relay)

    def _carry(self, link: ImpairedLink, sender: socket.socket, data: bytes, target: Address) -> None:
        for arrival in link.arrivals(len(data), time.monotonic()):
            heapq.heappush(self._carried, (arrival, next(self._order), sender, data, target))


@contextmanager
def detour(relay: Address, impairment: Impairment, seed: int = 1) -> Iterator[Detour]:
    between = Detour(relay, impairment, seed)
    try:
        yield between
    finally:
        between.close()
