"""What a relay's supervisor and its workers say to each other: one message in each packet of a Unix socket, and with
some of them descriptors of open sockets (SCM_RIGHTS, unix(7))."""

import socket
from typing import Self

import msgspec
import trio

from antiphon_common.metrics import MetricFamily

MAX_MESSAGE = 1 << 20
"""Bytes: a worker's metrics are some tens of thousands, for each public address a few hundred."""
MAX_DESCRIPTORS = 253
"""What the kernel passes with one message (SCM_MAX_FD), and so how many sockets a worker can have."""


class Media(msgspec.Struct, frozen=True):
    """A public socket that is handed over: its ingress id, and what callers are told."""

    ingress: int
    host: str
    port: int


class Adopt(msgspec.Struct, frozen=True, tag="adopt"):
    """To a worker, with the descriptors of its public sockets and, last, of its link socket: begin. `networks` are as
    in `--transceiver-network`, `secrets` is the text of the secret file, `core` the processor to run on."""

    core: int
    media: tuple[Media, ...]
    networks: tuple[str, ...]
    cluster: int
    redis: str | None
    secrets: str
    known: tuple[tuple[str, int], ...]

    def __repr__(self) -> str:
        return f"Adopt(core={self.core})"  # keys, and a password in the URL of Redis, are nobody's to read


class Know(msgspec.Struct, frozen=True, tag="know"):
    """To a worker: where the transceivers' link addresses are."""

    addresses: tuple[tuple[str, int], ...]


class Rekey(msgspec.Struct, frozen=True, tag="rekey"):
    """To a worker: the text of a new secret file."""

    secrets: str

    def __repr__(self) -> str:
        return "Rekey()"


class Report(msgspec.Struct, frozen=True, tag="report"):
    """From a worker, at once when it has begun and then regularly. `uplink` counts the clients' packets that it
    forwarded."""

    healthy: bool
    uplink: int
    metrics: tuple[MetricFamily, ...]


Message = Adopt | Know | Rekey | Report
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class Channel:
    """One end. Nothing here waits for the peer to take something: what does not fit its buffer is lost."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE)
        self._socket = sock

    @classmethod
    def pair(cls) -> tuple[Self, socket.socket]:
        """Return our end, and the socket of the other, for a process to inherit."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    def send(self, message: Message, descriptors: tuple[int, ...] = ()) -> bool:
        """Return whether the peer will find it."""
        try:
            socket.send_fds(self._socket, [msgspec.msgpack.encode(message)], descriptors)
        except OSError:
            return False
        return True

    async def wait_readable(self) -> None:
        """Return when there is a message, or the peer is gone."""
        await trio.lowlevel.wait_readable(self._socket)

    async def receive(self) -> tuple[Message, list[int]] | None:
        """Return the next message with its descriptors, or None once the peer is gone."""
        while True:
            await self.wait_readable()
            try:
                data, descriptors, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE, MAX_DESCRIPTORS)
            except BlockingIOError:
                continue
            except OSError:
                return None
            return (_decoder.decode(data), descriptors) if data else None

    def close(self) -> None:
        self._socket.close()
