"""An SCTP association over DTLS (RFC 9260, RFC 8261) as a protocol core."""

from collections import deque
from collections.abc import Callable, Collection, Mapping
from math import inf
from typing import Any

from antiphon_common.core import Path, Transmit
from antiphon_common.errors import DecodeError, LocalProtocolError, RemoteProtocolError
from antiphon_transceiver.sctp import chunks
from antiphon_transceiver.sctp.chunks import HEADER_SIZE as CHUNK_HEADER_SIZE
from antiphon_transceiver.sctp.chunks import SACK_SIZE, Chunk
from antiphon_transceiver.sctp.congestion import CongestionControl
from antiphon_transceiver.sctp.cookie import EXTENSIONS, SECRET_SIZE, CookieJar, PeerParameters, StaleCookieError
from antiphon_transceiver.sctp.data_receiver import MAX_STREAMS, RECEIVE_BUFFER, DataReceiver
from antiphon_transceiver.sctp.data_sender import DataSender
from antiphon_transceiver.sctp.events import AssociationClosed, AssociationCloseReason, Established, StreamsReset
from antiphon_transceiver.sctp.heartbeat import HEARTBEAT_INFO_SIZE, Heartbeats
from antiphon_transceiver.sctp.outbound_message import OutboundMessage
from antiphon_transceiver.sctp.packet import HEADER_SIZE, SctpPacket, encode_packet
from antiphon_transceiver.sctp.parameters import Cause, Parameter, ParameterType
from antiphon_transceiver.sctp.reassembly import StreamMessage
from antiphon_transceiver.sctp.resets import StreamResets
from antiphon_transceiver.sctp.rto import RetransmissionTimeout
from antiphon_transceiver.sctp.states import EXPECTED, SENDING, SETTING_UP, AssociationState

PORT = 5000
"""Of both sides, unless SDP says otherwise (RFC 8841 §5)."""

SEND_BUFFER = 1 << 20
"""Bytes taken from our user and not yet acknowledged: four longest messages."""

MAX_QUEUED_MESSAGES = 4096
"""The same for messages, since a short one takes far more memory than its bytes."""

MAX_CONTROL = 16
"""Control chunks waiting to be sent; each packet received asks for very few."""

MAX_BURST = 10
"""Packets sent at once (Max.Burst of RFC 9260 §16, there 4): an initial window, so that it is never cut short."""

MAX_FLUSHED = 32
"""DATA chunks after which a call fills no further packet; the next call, which `poll_timeout` asks for at once, goes on
with the burst."""

SETUP_DEADLINE = 30.0
"""Seconds until the peer must have answered: as long as ICE keeps a silent one."""

SHUTDOWN_DEADLINE = 5.0
"""Seconds a graceful end may take (the T5 timer of RFC 9260 §9.2); what follows it is an ABORT."""

MAX_RETRANSMISSIONS = 30
"""Times in a row something is repeated in vain: some 30 s, as above (Association.Max.Retrans of RFC 9260 §16 is 10, up
to a minute apart)."""

MAX_CAUSES = 4
"""Error causes of an ABORT that `AssociationClosed` names; there is one as a rule."""


class AssociationCounters:
    """What was dropped of that which came."""

    def __init__(self) -> None:
        self.malformed = 0
        self.unexpected = 0
        """Chunks that mean nothing in this state, wrong tags and ports, SACKs of what was never sent."""
        self.control_dropped = 0
        """Answers there was no room for, such as one to a HEARTBEAT longer than our packets."""


class BufferFullError(LocalProtocolError):
    """There is no room to send this now; wait for what is buffered to be acknowledged."""


AssociationEvent = Established | StreamMessage | StreamsReset | AssociationClosed


class Association:
    """One side of an association, over a DTLS connection that authenticates and hides what it sends.

    Its five methods are those of `antiphon_common.core.Core`; a datagram is the content of one DTLS record, at most
    `packet_size` bytes, and every `Transmit` has path None. It begins with `start`, or with the INIT of the peer, and
    ends with `AssociationClosed`. `send`, `reset_streams` and `release` only queue: what follows from them leaves with
    the next `flush`, which `poll_timeout` asks for at once. A restart (RFC 9260 §5.2.4 A) is refused: over DTLS it is a
    new association.
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
        self.state = AssociationState.CLOSED
        self.packet_size = packet_size // 4 * 4
        self.rto = RetransmissionTimeout()
        self.congestion = CongestionControl(self.packet_size - HEADER_SIZE)
        self._random = random
        self._ports = local_port, remote_port
        self._tag = int.from_bytes(random(4), "big") or 1
        self._initial_tsn = int.from_bytes(random(4), "big")
        self._cookies = CookieJar(random(SECRET_SIZE))
        self.sender = DataSender(self._initial_tsn, self.congestion, self.rto)
        self.receiver = DataReceiver()
        self._peer: PeerParameters | None = None
        self._resets = StreamResets(self._initial_tsn, self.rto)
        self._control: deque[bytes] = deque()
        self._setup_chunk = b""
        """INIT or COOKIE ECHO, while it waits for an answer (the T1 timers)."""
        self._give_up_at = inf
        self._retry_at = inf
        """When to repeat what sets up or shuts down (T1 and T2)."""
        self._retries = 0
        self._close_reason = AssociationCloseReason.PEER_CLOSED
        self._heartbeats = Heartbeats()
        self._dirty = False
        self._burst = 0
        """Packets of a burst that is not over: the next `flush` goes on with it, at once."""
        self._now = 0.0
        # Drained after every call (antiphon_common.core), so one datagram's worth bounds it.
        self._transmits: deque[Transmit] = deque()
        # Messages in it count against our window; `poll_timeout` asks for a call while anything is in it.
        self._events: deque[AssociationEvent] = deque()

    @property
    def streams(self) -> int:
        """How many streams we may send on, as far as is known."""
        return min(MAX_STREAMS, self._peer.inbound_streams) if self._peer else MAX_STREAMS

    @property
    def has_queued(self) -> bool:
        """Whether something waits for `flush`."""
        return self._dirty

    def set_packet_size(self, size: int) -> None:
        """Send packets of at most `size` bytes from now on; a chunk sent before keeps the size it has."""
        self.packet_size = size // 4 * 4
        self.congestion.packet_size = self.packet_size - HEADER_SIZE

    # What our user does.

    def start(self, now: float, round_trip: float | None = None) -> None:
        """Send an INIT. Both sides may, at the same time; without it the peer's is waited for.

        `round_trip` in seconds, as DTLS measured it, says when to repeat what gets lost.
        """
        if self.state is not AssociationState.CLOSED:
            return
        if round_trip is not None:
            self.rto.measure(round_trip)
        self.state = AssociationState.COOKIE_WAIT
        self._setup_chunk = chunks.Init(*self._init_fields(), EXTENSIONS).encode()
        self._give_up_at = now + SETUP_DEADLINE
        self._send_setup(now)

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
        """Queue a message of at least one byte; `max_lifetime` in seconds.

        Raise BufferFullError if there is no room.
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
        """Begin outgoing streams anew, once all that was sent on them is acknowledged (RFC 6525 §5.1.2)."""
        self._resets.want(streams)
        self._dirty = True

    def release(self, size: int) -> None:
        """Say that `size` bytes of messages have been consumed, which lets the peer send more."""
        if self.receiver.release(size):
            self._dirty = True

    def shutdown(self, now: float) -> None:
        """End it once all is delivered (RFC 9260 §9.2), or after 5 s in any case."""
        if self.state in SETTING_UP:
            self.abort(now)
        elif self.state is AssociationState.ESTABLISHED:
            self.state = AssociationState.SHUTDOWN_PENDING
            self._close_reason = AssociationCloseReason.LOCAL_CLOSE
            self._give_up_at = now + SHUTDOWN_DEADLINE
            self.flush(now)

    def abort(self, now: float) -> None:
        """End it at once and say so."""
        if self.state is not AssociationState.ENDED:
            self._abort(AssociationCloseReason.LOCAL_CLOSE, Cause.USER_INITIATED_ABORT, "")

    # The five methods.

    def receive_datagram(self, data: bytes, source: Path | None, now: float) -> None:
        """Take one packet of the peer; `source` does not matter here."""
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
            self._abort(AssociationCloseReason.ABORT_SENT, Cause.PROTOCOL_VIOLATION, str(error))
        self.flush(now)

    def handle_timeout(self, now: float) -> None:
        self._now = now
        if self.state is AssociationState.ENDED:
            return
        if now >= self._give_up_at:
            reason = self._close_reason if self.state not in SETTING_UP else AssociationCloseReason.TIMEOUT
            self._abort(reason, Cause.USER_INITIATED_ABORT, f"no answer in state {self.state.name}")
            return
        if now >= self._retry_at:
            self._retry(now)
        self.sender.handle_timeout(now)
        self.receiver.tsns.handle_timeout(now)
        repeated = self._resets.handle_timeout(now)
        if repeated is not None:
            self._queue(chunks.Reconfig((repeated,)))
        if now >= self._heartbeats.deadline:
            self._send_heartbeat(now)
        if max(self.sender.unanswered, self._resets.unanswered, self._retries) > MAX_RETRANSMISSIONS:
            self._abort(
                AssociationCloseReason.TIMEOUT, Cause.USER_INITIATED_ABORT, f"no answer in state {self.state.name}"
            )
            return
        self.flush(now)

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> AssociationEvent | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float:
        if self._events:
            return self._now
        if self.state is AssociationState.ENDED:
            return inf
        if self._dirty or self._burst:
            return self._now
        setup = min(self._give_up_at, self._retry_at, self._heartbeats.deadline)
        return min(setup, self.sender.deadline, self.receiver.tsns.deadline, self._resets.deadline)

    # Incoming packets.

    def _receive_packet(self, packet: SctpPacket, now: float) -> None:
        if not self._is_ours(packet):
            self.counters.unexpected += 1
            return
        has_data = at_once = False
        ignored = packet.ignored()
        for index, chunk in enumerate(packet.chunks):
            if type(chunk) is chunks.Unknown:
                if chunk.wants_report and self._peer is not None:
                    self._queue(chunks.Error((Parameter(Cause.UNRECOGNIZED_CHUNK, chunk.encode()[:64]),)))
                if chunk.stops_packet:
                    break
            elif index in ignored or self.state not in EXPECTED[chunk.type]:
                self.counters.unexpected += 1
            else:
                _HANDLERS[chunk.type](self, chunk, now)
                if type(chunk) is chunks.Data:
                    has_data, at_once = True, at_once or chunk.immediate
        if has_data:
            self.receiver.tsns.packet_received(now, at_once=at_once)

    def _is_ours(self, packet: SctpPacket) -> bool:
        """Check ports and verification tag (RFC 9260 §8.5)."""
        if (packet.destination_port, packet.source_port) != self._ports:
            return False
        first = packet.chunks[0]
        if type(first) is chunks.Init:
            return packet.tag == 0 and len(packet.chunks) == 1
        if isinstance(first, chunks.Abort | chunks.ShutdownComplete) and first.reflected:
            return self._peer is not None and packet.tag == self._peer.tag
        return packet.tag == self._tag

    # Set-up.

    def _init_fields(self) -> tuple[int, int, int, int, int]:
        return self._tag, RECEIVE_BUFFER, MAX_STREAMS, MAX_STREAMS, self._initial_tsn

    def _receive_init(self, init: chunks.Init, now: float) -> None:
        """Answer with the numbers of our own INIT, so that two that cross make one association (RFC 9260 §5.2.1)."""
        peer = PeerParameters.of(init)
        if self.state is AssociationState.ESTABLISHED and (self._peer is None or peer.tag != self._peer.tag):
            self.counters.unexpected += 1
            return
        cookie = Parameter(ParameterType.STATE_COOKIE, self._cookies.make(peer, now))
        answer = chunks.InitAck(*self._init_fields(), (*EXTENSIONS, cookie))
        self._transmit([answer.encode()], peer.tag)

    def _receive_init_ack(self, answer: chunks.InitAck, now: float) -> None:
        cookie = answer.parameter(ParameterType.STATE_COOKIE)
        if cookie is None:
            raise RemoteProtocolError("an INIT ACK without a cookie")
        if HEADER_SIZE + CHUNK_HEADER_SIZE + len(cookie) > self.packet_size:
            raise RemoteProtocolError(f"a cookie of {len(cookie)} bytes")
        self._adopt(PeerParameters.of(answer))
        self.state = AssociationState.COOKIE_ECHOED
        self._setup_chunk = chunks.CookieEcho(cookie).encode()
        self._retries = 0
        self._send_setup(now)

    def _receive_cookie_echo(self, echo: chunks.CookieEcho, now: float) -> None:
        try:
            peer = self._cookies.read(echo.value, now)
        except StaleCookieError:
            self._queue(chunks.Error((Parameter(Cause.STALE_COOKIE, bytes(4)),)))
            return
        if self.state is AssociationState.ESTABLISHED and (self._peer is None or peer.tag != self._peer.tag):
            self.counters.unexpected += 1
            return
        self._queue(chunks.CookieAck())
        if self.state is not AssociationState.ESTABLISHED:
            self._adopt(peer)
            self._establish(now)

    def _receive_cookie_ack(self, _: chunks.CookieAck, now: float) -> None:
        if self.state is AssociationState.COOKIE_ECHOED:  # else the peer's own cookie was faster
            self._establish(now)

    def _receive_error(self, error: chunks.Error, now: float) -> None:
        stale = any(cause.type == Cause.STALE_COOKIE for cause in error.parameters)
        if stale and self.state is AssociationState.COOKIE_ECHOED:  # RFC 9260 §5.2.6
            self.state = AssociationState.COOKIE_WAIT
            self._setup_chunk = chunks.Init(*self._init_fields(), EXTENSIONS).encode()
            self._send_setup(now)

    def _adopt(self, peer: PeerParameters) -> None:
        """Take what the peer said of itself; harmless when it is known already."""
        if self._peer is not None and self._peer.tag == peer.tag:
            return
        self._peer = peer
        self.sender.peer_rwnd = peer.a_rwnd
        self.sender.forward_tsn_supported = peer.forward_tsn
        self.receiver.begin(peer.initial_tsn)
        self._resets.begin(peer.initial_tsn, supported=peer.reconfig)

    def _establish(self, now: float) -> None:
        self.state = AssociationState.ESTABLISHED
        self._setup_chunk = b""
        self._give_up_at = self._retry_at = inf
        self._retries = 0
        self._heartbeats.postpone(now)
        self._events.append(Established())

    def _send_setup(self, now: float) -> None:
        """Send INIT, which has no tag yet, or COOKIE ECHO, which may have data behind it."""
        if self.state is AssociationState.COOKIE_WAIT:
            self._transmit([self._setup_chunk], 0)
        else:
            self._control.appendleft(self._setup_chunk)
        self._retry_at = now + self.rto.value

    # Data.

    def _receive_data(self, data: chunks.Data, now: float) -> None:
        if self.state is AssociationState.COOKIE_ECHOED:
            self._establish(now)
        self._events.extend(self.receiver.receive(data))

    def _receive_forward_tsn(self, forward: chunks.ForwardTsn, now: float) -> None:
        self._events.extend(self.receiver.skip(forward))

    def _receive_sack(self, sack: chunks.Sack, now: float) -> None:
        if not self.sender.receive_sack(sack, now):
            self.counters.unexpected += 1

    # Resets, heartbeats.

    def _receive_reconfig(self, reconfig: chunks.Reconfig, now: float) -> None:
        received, streams = self.receiver.tsns.cumulative, self.receiver.reassembler.streams
        answers = tuple(
            answer
            for parameter in reconfig.parameters[:2]  # RFC 6525 §3.1: no more than two
            if (answer := self._resets.receive(parameter, received, streams, now))
        )
        if answers:
            self._queue(chunks.Reconfig(answers))
        self._report_resets()

    def _report_resets(self) -> None:
        outgoing, incoming = tuple(self._resets.outgoing), tuple(self._resets.incoming)
        if not outgoing and not incoming:
            return
        self._resets.outgoing.clear()
        self._resets.incoming.clear()
        for stream in outgoing:
            self.sender.reset_stream(stream)
        self.receiver.reassembler.reset_streams(incoming)
        self._events.append(StreamsReset(outgoing, incoming))

    def _request_resets(self, now: float) -> None:
        request = self._resets.request(self.sender.busy_streams, self.sender.cumulative_tsn, now)
        if request is not None:
            self._queue(chunks.Reconfig((request,)))
        self._report_resets()

    def _receive_heartbeat(self, heartbeat: chunks.Heartbeat, now: float) -> None:
        self._queue(chunks.HeartbeatAck(heartbeat.value))

    def _receive_heartbeat_ack(self, answer: chunks.HeartbeatAck, now: float) -> None:
        round_trip = self._heartbeats.answered(answer.value, now)
        if round_trip is None:
            self.counters.unexpected += 1
        else:
            self.rto.measure(round_trip)

    def _send_heartbeat(self, now: float) -> None:
        self._heartbeats.postpone(now)
        if self.sender.idle and self.state is AssociationState.ESTABLISHED:
            self._queue(self._heartbeats.make(self._random(HEARTBEAT_INFO_SIZE), now))

    # The end.

    def _receive_shutdown(self, shutdown: chunks.Shutdown, now: float) -> None:
        self.sender.acknowledge(shutdown.cumulative_tsn, now)
        if self.state is AssociationState.SHUTDOWN_SENT:
            self._send_shutdown_ack(now)  # both ended it at once (RFC 9260 §9.2)
        elif self.state is not AssociationState.SHUTDOWN_ACK_SENT:
            self.state = AssociationState.SHUTDOWN_RECEIVED
            self._give_up_at = now + SHUTDOWN_DEADLINE

    def _receive_shutdown_ack(self, _: chunks.ShutdownAck, now: float) -> None:
        self._transmit_to_peer([chunks.ShutdownComplete().encode()])
        self._end(self._close_reason, "")

    def _receive_shutdown_complete(self, _: chunks.ShutdownComplete, now: float) -> None:
        self._end(self._close_reason, "")

    def _receive_abort(self, abort: chunks.Abort, now: float) -> None:
        detail = ", ".join([f"cause {cause.type}" for cause in abort.causes[:MAX_CAUSES]])
        self._end(AssociationCloseReason.ABORT_RECEIVED, detail)

    def _continue_shutdown(self, now: float) -> None:
        """Go on with the end once everything is acknowledged."""
        if self.state is AssociationState.SHUTDOWN_PENDING and self.sender.idle:
            self.state = AssociationState.SHUTDOWN_SENT
            self._send_shutdown(now)
        elif self.state is AssociationState.SHUTDOWN_RECEIVED and self.sender.idle:
            self._send_shutdown_ack(now)

    def _send_shutdown(self, now: float) -> None:
        self._queue(chunks.Shutdown(self.receiver.tsns.cumulative & 0xFFFFFFFF))
        self._retry_at = now + self.rto.value

    def _send_shutdown_ack(self, now: float) -> None:
        self.state = AssociationState.SHUTDOWN_ACK_SENT
        self._queue(chunks.ShutdownAck())
        self._retry_at = now + self.rto.value

    def _retry(self, now: float) -> None:
        """Repeat what T1 or T2 waits an answer for."""
        self._retries += 1
        self.rto.back_off()
        if self.state is AssociationState.SHUTDOWN_SENT:
            self._send_shutdown(now)
        elif self.state is AssociationState.SHUTDOWN_ACK_SENT:
            self._send_shutdown_ack(now)
        else:
            self._send_setup(now)

    def _abort(self, reason: AssociationCloseReason, cause: Cause, detail: str) -> None:
        if self._peer is not None:
            self._transmit_to_peer([chunks.Abort((Parameter(cause, detail.encode()[:64]),)).encode()])
        self._end(reason, detail)

    def _end(self, reason: AssociationCloseReason, detail: str) -> None:
        self.state = AssociationState.ENDED
        self._control.clear()
        self._events.append(AssociationClosed(reason, detail))

    # Outgoing packets.

    def flush(self, now: float) -> None:
        """Send what is due, as far as the peer's window and the path allow."""
        self._now = now
        self._dirty = False
        self.sender.start_lifetimes(now)
        if self.state is AssociationState.ENDED:
            return
        if self.state is AssociationState.ESTABLISHED:
            self._request_resets(now)
        self._continue_shutdown(now)
        burst, self._burst = self._burst, 0
        sent = 0
        while True:
            packet, data_chunks = self._next_packet(now, with_data=burst < MAX_BURST and sent < MAX_FLUSHED)
            if not packet:
                break
            self._transmit_to_peer(packet)
            burst += 1
            sent += data_chunks
        if sent >= MAX_FLUSHED and burst < MAX_BURST:
            self._burst = burst

    def _next_packet(self, now: float, *, with_data: bool) -> tuple[list[bytes], int]:
        """Return the chunks of the next packet, and the number of those that came from `outbound`."""
        room = empty = self.packet_size - HEADER_SIZE
        packet: list[bytes] = []
        while self._control and (len(self._control[0]) <= room or not packet):
            packet.append(self._control.popleft())
            room -= len(packet[-1])
        # Before COOKIE ACK data may only come right behind the cookie (RFC 9260 §5.1 C).
        may_send = self.state in SENDING or (
            self.state is AssociationState.COOKIE_ECHOED and packet[:1] == [self._setup_chunk]
        )
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

    def _queue(self, chunk: Chunk) -> None:
        if len(self._control) < MAX_CONTROL:
            data = chunk.encode()
            if len(data) <= self.packet_size - HEADER_SIZE:
                self._control.append(data)
                return
        self.counters.control_dropped += 1

    def _transmit_to_peer(self, packet: list[bytes]) -> None:
        if self._peer is not None:
            self._transmit(packet, self._peer.tag)

    def _transmit(self, packet: list[bytes], tag: int) -> None:
        self._transmits.append(Transmit(encode_packet(*self._ports, tag, packet), None))


_HANDLERS: Mapping[int, Callable[[Association, Any, float], None]] = {
    chunks.Data.type: Association._receive_data,
    chunks.Init.type: Association._receive_init,
    chunks.InitAck.type: Association._receive_init_ack,
    chunks.Sack.type: Association._receive_sack,
    chunks.Heartbeat.type: Association._receive_heartbeat,
    chunks.HeartbeatAck.type: Association._receive_heartbeat_ack,
    chunks.Abort.type: Association._receive_abort,
    chunks.Shutdown.type: Association._receive_shutdown,
    chunks.ShutdownAck.type: Association._receive_shutdown_ack,
    chunks.Error.type: Association._receive_error,
    chunks.CookieEcho.type: Association._receive_cookie_echo,
    chunks.CookieAck.type: Association._receive_cookie_ack,
    chunks.ShutdownComplete.type: Association._receive_shutdown_complete,
    chunks.Reconfig.type: Association._receive_reconfig,
    chunks.ForwardTsn.type: Association._receive_forward_tsn,
}
