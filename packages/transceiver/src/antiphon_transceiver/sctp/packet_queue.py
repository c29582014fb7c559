"""Control chunks that wait for a packet, and packets that wait for DTLS."""

from collections import deque

from antiphon_common.core import Transmit
from antiphon_transceiver.sctp.chunks import Chunk
from antiphon_transceiver.sctp.counters import AssociationCounters
from antiphon_transceiver.sctp.packet import HEADER_SIZE, encode_packet

MAX_CONTROL = 16
"""Control chunks that wait to be sent; each packet received causes very few."""


class PacketQueue:
    """The outgoing side of an association, below its chunks.

    `queue` control chunks, and `take_control` for the next packet. `send` encodes a packet of chunks, `poll_transmit`
    returns it. `peer_tag` is the verification tag of the peer, None while it is unknown.
    """

    def __init__(self, packet_size: int, local_port: int, remote_port: int, counters: AssociationCounters) -> None:
        self.packet_size = packet_size
        """Bytes of the longest packet, a multiple of four."""
        self.ports = local_port, remote_port
        self.peer_tag: int | None = None
        self._counters = counters
        self._control: deque[bytes] = deque()
        # Drained after every call (antiphon_common.core), so the output of one datagram bounds it.
        self._transmits: deque[Transmit] = deque()

    @property
    def room(self) -> int:
        """Bytes of chunks in one packet."""
        return self.packet_size - HEADER_SIZE

    def queue(self, chunk: Chunk) -> None:
        """Queue a control chunk. It is dropped and counted if the queue is full or the chunk exceeds a packet."""
        if len(self._control) < MAX_CONTROL:
            data = chunk.encode()
            if len(data) <= self.room:
                self._control.append(data)
                return
        self._counters.control_dropped += 1

    def queue_first(self, data: bytes) -> None:
        """Queue an encoded control chunk in front of all others."""
        self._control.appendleft(data)

    def take_control(self) -> list[bytes]:
        """Remove and return the control chunks that fit one packet."""
        room = self.room
        taken: list[bytes] = []
        while self._control and (len(self._control[0]) <= room or not taken):
            taken.append(self._control.popleft())
            room -= len(taken[-1])
        return taken

    def discard_control(self) -> None:
        """Drop all control chunks, since the association has ended."""
        self._control.clear()

    def send(self, packet: list[bytes], tag: int) -> None:
        """Send encoded chunks in one packet with this verification tag."""
        self._transmits.append(Transmit(encode_packet(*self.ports, tag, packet), None))

    def send_to_peer(self, packet: list[bytes]) -> None:
        """Send encoded chunks in one packet, unless the peer's verification tag is unknown."""
        if self.peer_tag is not None:
            self.send(packet, self.peer_tag)

    def poll_transmit(self) -> Transmit | None:
        """Return the next packet to send."""
        return self._transmits.popleft() if self._transmits else None
