"""A UDP forwarder between a caller and the relay that counts what passes, by kind and direction."""

import selectors
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from antiphon_common.demux import Protocol, classify

LARGEST = 65536


class PacketCapture:
    """A UDP forwarder in a thread. Advertise `address` to callers in place of the relay's.

    `up` and `down` count datagrams by protocol.
    """

    def __init__(self) -> None:
        self.up: Counter[Protocol] = Counter()
        self.down: Counter[Protocol] = Counter()
        self._target: tuple[str, int] | None = None
        self._front = _udp()
        self._front.bind(("127.0.0.1", 0))
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._front, selectors.EVENT_READ)
        self._behind: dict[tuple[str, int], socket.socket] = {}
        self._caller_of: dict[socket.socket, tuple[str, int]] = {}
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)

    @property
    def address(self) -> str:
        host, port = self._front.getsockname()
        return f"{host}:{port}"

    def forward_to(self, address: str) -> None:
        """Set the address of the relay."""
        host, _, port = address.rpartition(":")
        self._target = (host, int(port))

    def run(self) -> None:
        """Forward until `stop`. Each caller's address has its own socket towards the relay."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    return
                assert isinstance(key.fileobj, socket.socket)
                self._drain(key.fileobj)

    def stop(self) -> None:
        self._wake.send(b"\0")

    def close(self) -> None:
        self._selector.close()
        for sock in (self._front, self._wake, self._woken, *self._behind.values()):
            sock.close()

    def _drain(self, sock: socket.socket) -> None:
        while True:
            try:
                data, source = sock.recvfrom(LARGEST)
            except BlockingIOError:
                return
            if sock is self._front:
                self.up[Protocol(classify(data))] += 1
                self._towards_relay(source).send(data)
            else:
                self.down[Protocol(classify(data))] += 1
                self._front.sendto(data, self._caller_of[sock])

    def _towards_relay(self, caller: tuple[str, int]) -> socket.socket:
        if caller not in self._behind:
            assert self._target is not None
            sock = self._behind[caller] = _udp()
            sock.connect(self._target)
            self._caller_of[sock] = caller
            self._selector.register(sock, selectors.EVENT_READ)
        return self._behind[caller]


@contextmanager
def packet_capture() -> Iterator[PacketCapture]:
    """Run a packet capture in a thread for the length of the block."""
    capture = PacketCapture()
    thread = threading.Thread(target=capture.run)
    thread.start()
    try:
        yield capture
    finally:
        capture.stop()
        thread.join()
        capture.close()


def _udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    return sock
