"""Messages between a relay's supervisor and its worker processes.

Each is one packet of a Unix socket, some with descriptors of open sockets (SCM_RIGHTS, unix(7)).
"""

import socket
from typing import Self

import msgspec
import trio

from antiphon_common.metrics import MetricFamily
from antiphon_relay.shell.public_sockets import AdvertisedAddress

MAX_MESSAGE = 1 << 20
"""Bytes of a message: a worker's metrics are some tens of thousands, a few hundred for each public address."""
MAX_DESCRIPTORS = 253
"""Sockets that a worker can have: the kernel passes no more descriptors with one message (SCM_MAX_FD)."""


class StartWorker(msgspec.Struct, frozen=True, tag="start"):
    """To a standby worker, with the descriptors of its public sockets and, last, of its link socket: start forwarding.

    `core` is the processor to run on, `public` are the addresses of the public sockets, `networks` are as in
    `--transceiver-network`, `secrets` is the text of the secret file, `transceivers` are link addresses.
    """

    core: int
    public: tuple[AdvertisedAddress, ...]
    networks: tuple[str, ...]
    cluster: int
    redis: str | None
    secrets: str
    transceivers: tuple[tuple[str, int], ...]

    def __repr__(self) -> str:
        return f"StartWorker(core={self.core})"  # neither keys nor the password in a Redis URL reach a log


class SetTransceivers(msgspec.Struct, frozen=True, tag="set_transceivers"):
    """To a worker: the link addresses of the transceivers that get HELLO from now on."""

    addresses: tuple[tuple[str, int], ...]


class SetKeys(msgspec.Struct, frozen=True, tag="set_keys"):
    """To a worker: the text of a new secret file."""

    secrets: str

    def __repr__(self) -> str:
        return "SetKeys()"


class WorkerStatus(msgspec.Struct, frozen=True, tag="status"):
    """From a worker, when it has started and then regularly. `uplink` counts the client packets that it forwarded."""

    healthy: bool
    uplink: int
    metrics: tuple[MetricFamily, ...]


Message = StartWorker | SetTransceivers | SetKeys | WorkerStatus
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class WorkerChannel:
    """One end of the socket between supervisor and worker. A message that does not fit the peer's buffer is lost."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE)
        self._socket = sock

    @classmethod
    def pair(cls) -> tuple[Self, socket.socket]:
        """Return our end, and the socket of the other end for a process to inherit."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    def send(self, message: Message, descriptors: tuple[int, ...] = ()) -> bool:
        """Send without waiting; return False if the message is lost."""
        try:
            socket.send_fds(self._socket, [msgspec.msgpack.encode(message)], descriptors)
        except OSError:
            return False
        return True

    async def wait_readable(self) -> None:
        """Return when there is a message, or the peer has closed."""
        await trio.lowlevel.wait_readable(self._socket)

    async def receive(self) -> tuple[Message, list[int]] | None:
        """Return the next message with its descriptors, or None once the peer has closed."""
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
