"""An SCTP association over DTLS (RFC 9260, RFC 8261) as a protocol core."""

from collections import deque
from collections.abc import Callable, Collection
from math import inf

from antiphon_common.core import Path, Transmit
from antiphon_common.errors import DecodeError, LocalProtocolError, RemoteProtocolError
from antiphon_transceiver.sctp import chunks, lifecycle, transfer
from antiphon_transceiver.sctp.chunks import SACK_SIZE, ChunkType
from antiphon_transceiver.sctp.congestion import CongestionControl
from antiphon_transceiver.sctp.cookie import SECRET_SIZE, CookieJar
from antiphon_transceiver.sctp.counters import AssociationCounters
from antiphon_transceiver.sctp.data_receiver import MAX_STREAMS
from antiphon_transceiver.sctp.events import AssociationCloseReason, AssociationEvent
from antiphon_transceiver.sctp.heartbeat import HEARTBEAT_INFO_SIZE, Heartbeats
from antiphon_transceiver.sctp.outbound_message import OutboundMessage
from antiphon_transceiver.sctp.packet import SctpPacket
from antiphon_transceiver.sctp.packet_queue import PacketQueue
from antiphon_transceiver.sctp.parameters import Cause, Parameter
from antiphon_transceiver.sctp.rto import RetransmissionTimeout
from antiphon_transceiver.sctp.states import EXPECTED, SENDING, SETTING_UP, AssociationState

PORT = 5000
"""The port of both sides, unless SDP has another (RFC 8841 §5)."""

SEND_BUFFER = 1 << 20
"""Bytes queued by our user and not yet acknowledged: four messages of the maximum size."""

MAX_QUEUED_MESSAGES = 4096
"""Messages queued and not yet sent. A short message takes far more memory than its bytes."""

MAX_BURST = 10
"""Packets sent at once (Max.Burst of RFC 9260 §16, there 4): an initial cwnd, so that it is never cut short."""

MAX_FLUSHED = 32
"""DATA chunks after which a call fills no further packet. `poll_timeout` is due at once, and the next call continues
the burst."""

MAX_RETRANSMISSIONS = 30
"""Retransmissions in a row without an answer, some 30 s. Association.Max.Retrans of RFC 9260 §16 is 10, up to a minute
apart."""


class BufferFullError(LocalProtocolError):
    """There is no room to queue this now. Try again when buffered messages have been acknowledged."""


class Association:
    """One side of an association, over a DTLS connection that authenticates and encrypts its packets.

    Its five methods are those of `antiphon_common.core.Core`; a datagram is the content of one DTLS record, of at most
    `packet_size` bytes, and every `Transmit` has path None. It begins with `start` or with the INIT of the peer, and
    ends with `AssociationClosed`. `send`, `reset_streams` and `release` only queue: the resulting packets are sent by
    the next `flush`, for which `poll_timeout` is due at once. A restart (RFC 9260 §5.2.4 A) is refused: over DTLS it is
    a new association.
    """

    def __init__(
        self,
        random: Callable[[int], bytes],
        *,
        packet_size: int,
        local_port: int = PORT,
        remote_port: int = PORT,
    ) -> None:
        self.counters = AssociationCounters()
        tag, initial_tsn = int.from_bytes(random(4), "big") or 1, int.from_bytes(random(4), "big")
        cookies = CookieJar(random(SECRET_SIZE))
        # Messages in it count against our a_rwnd; `poll_timeout` is due at once while it is not empty.
        self._events: deque[AssociationEvent] = deque()
        self._packets = PacketQueue(packet_size // 4 * 4, local_port, remote_port, self.counters)
        self.rto = RetransmissionTimeout()
        self.congestion = CongestionControl(self._packets.room)
        self._transfer = transfer.DataTransfer(
            initial_tsn, self.congestion, self.rto, self._packets, self._events, self.counters
        )
        self.sender, self.receiver = self._transfer.sender, self._transfer.receiver
        self._lifecycle = lifecycle.Lifecycle(
            tag, initial_tsn, cookies, self._transfer, self._packets, self.rto, self._events, self.counters
        )
        self._heartbeats = Heartbeats()
        self._random = random
        self._dirty = False
        self._burst = 0
        """Packets of a burst that is not over: the next `flush` continues it at once."""
        self._now = 0.0

    @property
    def state(self) -> AssociationState:
        """The state of RFC 9260 §4."""
        return self._lifecycle.state

    @property
    def tag(self) -> int:
        """Our verification tag, which the peer's packets must have (RFC 9260 §8.5)."""
        return self._lifecycle.tag

    @property
    def peer_tag(self) -> int | None:
        """The peer's verification tag, or None while it is unknown."""
        return self._packets.peer_tag

    @property
    def packet_size(self) -> int:
        """Bytes of the longest packet."""
        return self._packets.packet_size

    @property
    def streams(self) -> int:
        """The number of streams on which we may send, as far as is known."""
        peer = self._lifecycle.peer
        return min(MAX_STREAMS, peer.inbound_streams) if peer else MAX_STREAMS

    @property
    def has_queued(self) -> bool:
        """Whether something waits for `flush`."""
        return self._dirty

    def set_packet_size(self, size: int) -> None:
        """Send packets of at most `size` bytes from now on; retransmitted chunks keep their size."""
        self._packets.packet_size = size // 4 * 4
        self.congestion.packet_size = self._packets.room

    # Local actions.

    def start(self, now: float, round_trip: float | None = None) -> None:
        """Send an INIT. Both sides may do so at the same time; a side that does not waits for the peer's.

        `round_trip` in seconds, as measured by DTLS, sets the first retransmission timeout.
        """
        if round_trip is not None and self.state is AssociationState.CLOSED:
            self.rto.measure(round_trip)
        self._lifecycle.start(now)

    def send(
        self,
        stream: int,
        ppid: int,
        data: bytes,
        *,
        ordered: bool = True,
        max_retransmits: int | None = None,
        max_lifetime: float | None = None,
    ) -> None:
        """Queue a message of at least one byte; `max_lifetime` is in seconds.

        Raises:
            BufferFullError: There is no room.
            LocalProtocolError: The message is empty, or the association is shutting down or has ended.
        """
        if self.state not in SETTING_UP and self.state is not AssociationState.ESTABLISHED:
            raise LocalProtocolError(f"a message in state {self.state.name}")
        if not data:
            raise LocalProtocolError("an empty message")
        if self.sender.buffered_bytes + len(data) > SEND_BUFFER or self.sender.messages >= MAX_QUEUED_MESSAGES:
            raise BufferFullError(f"{self.sender.buffered_bytes} bytes are still buffered")
        self.sender.push(OutboundMessage(stream, ppid, data, not ordered, max_retransmits, max_lifetime))
        self._dirty = True

    def reset_streams(self, streams: Collection[int]) -> None:
        """Reset outgoing streams, once all data sent on them is acknowledged (RFC 6525 §5.1.2)."""
        self._transfer.reset_streams(streams)
        self._dirty = True

    def release(self, size: int) -> None:
        """Release `size` bytes of messages that have been consumed, so that the peer may send more."""
        if self.receiver.release(size):
            self._dirty = True

    def shutdown(self, now: float) -> None:
        """End the association once all data is acknowledged (RFC 9260 §9.2), or after 5 s."""
        self._lifecycle.shutdown(now)
        self.flush(now)

    def abort(self, now: float) -> None:
        """Send an ABORT and end the association. It has no effect after the end."""
        if self.state is not AssociationState.ENDED:
            self._lifecycle.abort(AssociationCloseReason.LOCAL_CLOSE, Cause.USER_INITIATED_ABORT, "")

    # The five methods.

    def receive_datagram(self, data: bytes, source: Path | None, now: float) -> None:
        """Handle one packet of the peer; `source` is ignored."""
        self._now = now
        if self.state is AssociationState.ENDED:
            return
        try:
            packet = SctpPacket.decode(data)
        except DecodeError:
            self.counters.malformed += 1
            return
        try:
            self._receive_packet(packet, now)
        except DecodeError:
            self.counters.malformed += 1
        except RemoteProtocolError as error:
            self._lifecycle.abort(AssociationCloseReason.ABORT_SENT, Cause.PROTOCOL_VIOLATION, str(error))
        self.flush(now)

    def handle_timeout(self, now: float) -> None:
        self._now = now
        if self.state is AssociationState.ENDED:
            return
        if self._lifecycle.handle_timeout(now) is AssociationState.ENDED:
            return
        self._transfer.handle_timeout(now)
        if now >= self._heartbeats.deadline:
            self._send_heartbeat(now)
        if max(self._transfer.unanswered, self._lifecycle.retries) > MAX_RETRANSMISSIONS:
            self._lifecycle.give_up()
            return
        self.flush(now)

    def poll_transmit(self) -> Transmit | None:
        return self._packets.poll_transmit()

    def poll_event(self) -> AssociationEvent | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float:
        if self._events:
            return self._now
        if self.state is AssociationState.ENDED:
            return inf
        if self._dirty or self._burst:
            return self._now
        return min(self._lifecycle.deadline, self._transfer.deadline, self._heartbeats.deadline)

    # Incoming packets.

    def _receive_packet(self, packet: SctpPacket, now: float) -> None:
        if not self._is_ours(packet):
            self.counters.unexpected += 1
            return
        has_data = at_once = False
        ignored = packet.ignored()
        for index, chunk in enumerate(packet.chunks):
            if type(chunk) is chunks.Unknown:
                if chunk.wants_report and self.peer_tag is not None:
                    self._packets.queue(chunks.Error((Parameter(Cause.UNRECOGNIZED_CHUNK, chunk.encode()[:64]),)))
                if chunk.stops_packet:
                    break
            elif index in ignored or self.state not in EXPECTED[chunk.type]:
                self.counters.unexpected += 1
            else:
                self._receive_chunk(chunk, now)
                if type(chunk) is chunks.Data:
                    has_data, at_once = True, at_once or chunk.immediate
        if has_data:
            self.receiver.tsns.packet_received(now, at_once=at_once)

    def _is_ours(self, packet: SctpPacket) -> bool:
        """Return True if ports and verification tag are right (RFC 9260 §8.5)."""
        if (packet.destination_port, packet.source_port) != self._packets.ports:
            return False
        first = packet.chunks[0]
        if type(first) is chunks.Init:
            return packet.tag == 0 and len(packet.chunks) == 1
        if isinstance(first, chunks.Abort | chunks.ShutdownComplete) and first.reflected:
            return packet.tag == self.peer_tag
        return packet.tag == self.tag

    def _receive_chunk(self, chunk: chunks.Chunk, now: float) -> None:
        if chunk.type in lifecycle.HANDLERS:
            self._lifecycle.receive(chunk, now)
        elif chunk.type in transfer.HANDLERS:
            if chunk.type == ChunkType.DATA and self.state is AssociationState.COOKIE_ECHOED:
                self._lifecycle.establish()
            self._transfer.receive(chunk, now)
        elif isinstance(chunk, chunks.Heartbeat):
            self._packets.queue(chunks.HeartbeatAck(chunk.value))
        elif isinstance(chunk, chunks.HeartbeatAck):
            self._receive_heartbeat_ack(chunk, now)

    # Heartbeats.

    def _receive_heartbeat_ack(self, answer: chunks.HeartbeatAck, now: float) -> None:
        round_trip = self._heartbeats.answered(answer.value, now)
        if round_trip is None:
            self.counters.unexpected += 1
        else:
            self.rto.measure(round_trip)

    def _send_heartbeat(self, now: float) -> None:
        self._heartbeats.postpone(now)
        if self.sender.idle and self.state is AssociationState.ESTABLISHED:
            self._packets.queue(self._heartbeats.make(self._random(HEARTBEAT_INFO_SIZE), now))

    # Outgoing packets.

    def flush(self, now: float) -> None:
        """Send the packets that are due, as far as peer_rwnd and cwnd allow."""
        self._now = now
        self._dirty = False
        self.sender.start_lifetimes(now)
        if self.state is AssociationState.ENDED:
            return
        if self.state is AssociationState.ESTABLISHED:
            self._transfer.request_resets(now)
            if self._heartbeats.deadline == inf:
                self._heartbeats.postpone(now)
        self._lifecycle.continue_shutdown(now)
        burst, self._burst = self._burst, 0
        sent = 0
        while True:
            packet, data_chunks = self._next_packet(now, with_data=burst < MAX_BURST and sent < MAX_FLUSHED)
            if not packet:
                break
            self._packets.send_to_peer(packet)
            burst += 1
            sent += data_chunks
        if sent >= MAX_FLUSHED and burst < MAX_BURST:
            self._burst = burst

    def _next_packet(self, now: float, *, with_data: bool) -> tuple[list[bytes], int]:
        """Return the chunks of the next packet, and how many of them are DATA or FORWARD TSN."""
        empty = self._packets.room
        packet = self._packets.take_control()
        room = empty - sum(map(len, packet))
        # Before COOKIE ACK, data may only be sent in the packet of COOKIE ECHO (RFC 9260 §5.1 C).
        with_cookie = self.state is AssociationState.COOKIE_ECHOED and packet[:1] == [self._lifecycle.setup_chunk]
        may_send = self.state in SENDING or with_cookie
        tsns = self.receiver.tsns
        if tsns.due and room >= SACK_SIZE:
            packet.append(self.receiver.sack(room).encode())
            room -= len(packet[-1])
        if not (may_send and with_data):
            return packet, 0
        data = self.sender.take(room, now, empty=empty)
        if data and tsns.pending and room - sum(map(len, data)) >= SACK_SIZE:
            packet.append(self.receiver.sack(SACK_SIZE).encode())
        return packet + data, len(data)
