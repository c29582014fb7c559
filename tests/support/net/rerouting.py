"""An impaired path in user space, for callers that cannot run in a network namespace.

Advertise its address to callers in place of the relay's.
"""

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
"""Seconds after which the thread checks whether it must end."""


class Rerouting:
    """Forwards datagrams between callers on loopback and a relay, through one impaired link in each direction.

    Datagrams of a caller may exceed the path's MTU, as its IP fragments would pass. Those of the relay may not.
    """

    def __init__(self, relay: Address, impairment: Impairment, seed: int) -> None:
        random = Random(seed)
        self.up = ImpairedLink(msgspec.structs.replace(impairment, mtu=MAX_DATAGRAM), random)
        self.down = ImpairedLink(impairment, random)
        self.relay = relay
        self._selector = selectors.DefaultSelector()
        self._callers_socket = self._open()
        self.address: Address = self._callers_socket.getsockname()
        self._relay_sockets: dict[Address, socket.socket] = {}
        """For each caller, the socket whose address the relay sees."""
        self._in_flight: list[tuple[float, int, socket.socket, bytes, Address]] = []
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
            wait = self._in_flight[0][0] - time.monotonic() if self._in_flight else LONGEST_WAIT
            for key, _ in self._selector.select(max(0.0, min(wait, LONGEST_WAIT))):
                assert isinstance(key.fileobj, socket.socket)
                self._receive(key.fileobj, key.data)
            while self._in_flight and self._in_flight[0][0] <= time.monotonic():
                _, _, sender, data, target = heapq.heappop(self._in_flight)
                sender.sendto(data, target)

    def _receive(self, receiver: socket.socket, caller: Address | None) -> None:
        data, source = receiver.recvfrom(2048)
        if caller is not None:
            self._forward(self.down, self._callers_socket, data, caller)
        else:
            behind = self._relay_sockets.get(source) or self._relay_sockets.setdefault(source, self._open(source))
            self._forward(self.up, behind, data, self.relay)

    def _forward(self, link: ImpairedLink, sender: socket.socket, data: bytes, target: Address) -> None:
        for arrival in link.arrivals(len(data), time.monotonic()):
            heapq.heappush(self._in_flight, (arrival, next(self._order), sender, data, target))


@contextmanager
def rerouting(relay: Address, impairment: Impairment, seed: int = 1) -> Iterator[Rerouting]:
    path = Rerouting(relay, impairment, seed)
    try:
        yield path
    finally:
        path.close()
