"""Set-up and teardown of an association (RFC 9260 §5 and §9): cookies, shutdown, and the timers T1, T2 and T5."""

from collections import deque
from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from antiphon_common.errors import RemoteProtocolError
from antiphon_transceiver.sctp import chunks
from antiphon_transceiver.sctp.chunks import HEADER_SIZE as CHUNK_HEADER_SIZE
from antiphon_transceiver.sctp.chunks import Chunk
from antiphon_transceiver.sctp.cookie import EXTENSIONS, CookieJar, PeerParameters, StaleCookieError
from antiphon_transceiver.sctp.counters import AssociationCounters
from antiphon_transceiver.sctp.data_receiver import MAX_STREAMS, RECEIVE_BUFFER
from antiphon_transceiver.sctp.events import AssociationClosed, AssociationCloseReason, AssociationEvent, Established
from antiphon_transceiver.sctp.packet_queue import PacketQueue
from antiphon_transceiver.sctp.parameters import Cause, Parameter, ParameterType
from antiphon_transceiver.sctp.rto import RetransmissionTimeout
from antiphon_transceiver.sctp.states import SETTING_UP, TRANSITIONS, AssociationState, Step
from antiphon_transceiver.sctp.transfer import DataTransfer

SETUP_DEADLINE = 30.0
"""Seconds until the peer must have answered: as long as ICE keeps a peer that does not answer."""

SHUTDOWN_DEADLINE = 5.0
"""Seconds until a shutdown becomes an ABORT (the T5 timer of RFC 9260 §9.2)."""

MAX_CAUSES = 4
"""Error causes of an ABORT that are reported in `AssociationClosed`. An ABORT usually has one."""


class Lifecycle:
    """The state of an association, and the chunks that change it.

    `Association` passes the chunks of set-up and teardown to `receive`, once `states.EXPECTED` has accepted them.
    Chunks to send go to `packets`, `Established` and `AssociationClosed` to `events`. `transfer` begins when the peer's
    parameters are known.
    """

    def __init__(
        self,
        tag: int,
        initial_tsn: int,
        cookies: CookieJar,
        transfer: DataTransfer,
        packets: PacketQueue,
        rto: RetransmissionTimeout,
        events: deque[AssociationEvent],
        counters: AssociationCounters,
    ) -> None:
        self.state = AssociationState.CLOSED
        self.peer: PeerParameters | None = None
        self.tag = tag
        """Our verification tag (RFC 9260 §3)."""
        self.setup_chunk = b""
        """The INIT or COOKIE ECHO that waits for an answer (T1)."""
        self.retries = 0
        """Retransmissions in a row by T1 or T2."""
        self._initial_tsn = initial_tsn
        self._cookies = cookies
        self._transfer = transfer
        self._packets = packets
        self._rto = rto
        self._events = events
        self._counters = counters
        self._give_up_at = inf
        self._retry_at = inf
        """When T1 or T2 retransmits a chunk of set-up or shutdown."""
        self._close_reason = AssociationCloseReason.PEER_CLOSED

    @property
    def deadline(self) -> float:
        """When `handle_timeout` is due; infinity if never."""
        return min(self._give_up_at, self._retry_at)

    def start(self, now: float) -> None:
        """Send an INIT, unless the association has begun."""
        if self.state is not AssociationState.CLOSED:
            return
        self._enter(Step.ASSOCIATE)
        self.setup_chunk = chunks.Init(*self._init_fields(), EXTENSIONS).encode()
        self._give_up_at = now + SETUP_DEADLINE
        self._send_setup(now)

    def shutdown(self, now: float) -> None:
        """Shut down once all data is acknowledged (RFC 9260 §9.2); abort if the association is not established."""
        if self.state in SETTING_UP:
            self.abort(AssociationCloseReason.LOCAL_CLOSE, Cause.USER_INITIATED_ABORT, "")
        elif self.state is AssociationState.ESTABLISHED:
            self._enter(Step.SHUT_DOWN)
            self._close_reason = AssociationCloseReason.LOCAL_CLOSE
            self._give_up_at = now + SHUTDOWN_DEADLINE

    def abort(self, reason: AssociationCloseReason, cause: Cause, detail: str) -> None:
        """Send an ABORT if the peer is known, and end the association."""
        self._packets.send_to_peer([chunks.Abort((Parameter(cause, detail.encode()[:64]),)).encode()])
        self._end(reason, detail)

    def give_up(self) -> None:
        """Abort, since the peer does not answer."""
        self._abort_in_vain(AssociationCloseReason.TIMEOUT)

    def handle_timeout(self, now: float) -> AssociationState:
        """Give up if set-up or shutdown takes too long (T5), or retransmit (T1, T2). Return the state after that."""
        if now >= self._give_up_at:
            reason = self._close_reason if self.state not in SETTING_UP else AssociationCloseReason.TIMEOUT
            self._abort_in_vain(reason)
        elif now >= self._retry_at:
            self._retry(now)
        return self.state

    def receive(self, chunk: Chunk, now: float) -> None:
        """Handle a chunk of a type in `HANDLERS`.

        Raises:
            RemoteProtocolError: The peer broke the protocol.
            DecodeError: A COOKIE ECHO has a cookie that is not ours.
        """
        HANDLERS[chunk.type](self, chunk, now)

    def _abort_in_vain(self, reason: AssociationCloseReason) -> None:
        self.abort(reason, Cause.USER_INITIATED_ABORT, f"no answer in state {self.state.name}")

    def _enter(self, step: Step) -> None:
        self.state = TRANSITIONS[self.state, step]

    # Set-up (RFC 9260 §5).

    def _init_fields(self) -> tuple[int, int, int, int, int]:
        return self.tag, RECEIVE_BUFFER, MAX_STREAMS, MAX_STREAMS, self._initial_tsn

    def _receive_init(self, init: chunks.Init, now: float) -> None:
        """Answer with the tag and TSN of our own INIT: two INITs that cross make one association (RFC 9260 §5.2.1)."""
        peer = PeerParameters.of(init)
        if self._refuses(peer):
            return
        cookie = Parameter(ParameterType.STATE_COOKIE, self._cookies.make(peer, now))
        answer = chunks.InitAck(*self._init_fields(), (*EXTENSIONS, cookie))
        self._packets.send([answer.encode()], peer.tag)

    def _receive_init_ack(self, answer: chunks.InitAck, now: float) -> None:
        cookie = answer.parameter(ParameterType.STATE_COOKIE)
        if cookie is None:
            raise RemoteProtocolError("an INIT ACK without a cookie")
        if CHUNK_HEADER_SIZE + len(cookie) > self._packets.room:
            raise RemoteProtocolError(f"a cookie of {len(cookie)} bytes")
        self._adopt(PeerParameters.of(answer))
        self._enter(Step.COOKIE_RECEIVED)
        self.setup_chunk = chunks.CookieEcho(cookie).encode()
        self.retries = 0
        self._send_setup(now)

    def _receive_cookie_echo(self, echo: chunks.CookieEcho, now: float) -> None:
        try:
            peer = self._cookies.read(echo.value, now)
        except StaleCookieError:
            self._packets.queue(chunks.Error((Parameter(Cause.STALE_COOKIE, bytes(4)),)))
            return
        if self._refuses(peer):
            return
        self._packets.queue(chunks.CookieAck())
        if self.state is not AssociationState.ESTABLISHED:
            self._adopt(peer)
            self.establish()

    def _receive_cookie_ack(self, _: chunks.CookieAck, now: float) -> None:
        if self.state is AssociationState.COOKIE_ECHOED:  # otherwise the peer's COOKIE ECHO was faster
            self.establish()

    def _receive_error(self, error: chunks.Error, now: float) -> None:
        stale = any(cause.type == Cause.STALE_COOKIE for cause in error.parameters)
        if stale and self.state is AssociationState.COOKIE_ECHOED:  # RFC 9260 §5.2.6
            self._enter(Step.COOKIE_STALE)
            self.setup_chunk = chunks.Init(*self._init_fields(), EXTENSIONS).encode()
            self._send_setup(now)

    def _refuses(self, peer: PeerParameters) -> bool:
        """Return True and count it if an established association would restart with this peer (RFC 9260 §5.2.4 A)."""
        if self.state is AssociationState.ESTABLISHED and (self.peer is None or peer.tag != self.peer.tag):
            self._counters.unexpected += 1
            return True
        return False

    def _adopt(self, peer: PeerParameters) -> None:
        """Begin the transfer with a peer's parameters. It has no effect if they are known."""
        if self.peer is not None and self.peer.tag == peer.tag:
            return
        self.peer = peer
        self._packets.peer_tag = peer.tag
        self._transfer.begin(peer)

    def establish(self) -> None:
        """Complete the set-up: the peer has our cookie, or acknowledged that we have its cookie."""
        self._enter(Step.ESTABLISH)
        self.setup_chunk = b""
        self._give_up_at = self._retry_at = inf
        self.retries = 0
        self._events.append(Established())

    def _send_setup(self, now: float) -> None:
        """Send INIT, with verification tag 0, or queue COOKIE ECHO, which may share a packet with data."""
        if self.state is AssociationState.COOKIE_WAIT:
            self._packets.send([self.setup_chunk], 0)
        else:
            self._packets.queue_first(self.setup_chunk)
        self._retry_at = now + self._rto.value

    # Teardown (RFC 9260 §9).

    def _receive_shutdown(self, shutdown: chunks.Shutdown, now: float) -> None:
        self._transfer.sender.acknowledge(shutdown.cumulative_tsn, now)
        if self.state is AssociationState.SHUTDOWN_SENT:
            self._enter(Step.SHUTDOWN_RECEIVED)
            self._send_shutdown_ack(now)  # both sides shut down at once (RFC 9260 §9.2)
        elif self.state is not AssociationState.SHUTDOWN_ACK_SENT:
            self._enter(Step.SHUTDOWN_RECEIVED)
            self._give_up_at = now + SHUTDOWN_DEADLINE

    def _receive_shutdown_ack(self, _: chunks.ShutdownAck, now: float) -> None:
        self._packets.send_to_peer([chunks.ShutdownComplete().encode()])
        self._end(self._close_reason, "")

    def _receive_shutdown_complete(self, _: chunks.ShutdownComplete, now: float) -> None:
        self._end(self._close_reason, "")

    def _receive_abort(self, abort: chunks.Abort, now: float) -> None:
        detail = ", ".join([f"cause {cause.type}" for cause in abort.causes[:MAX_CAUSES]])
        self._end(AssociationCloseReason.ABORT_RECEIVED, detail)

    def continue_shutdown(self, now: float) -> None:
        """Send SHUTDOWN or SHUTDOWN ACK once all data is acknowledged."""
        idle = self._transfer.sender.idle
        if self.state is AssociationState.SHUTDOWN_PENDING and idle:
            self._enter(Step.ALL_ACKNOWLEDGED)
            self._send_shutdown(now)
        elif self.state is AssociationState.SHUTDOWN_RECEIVED and idle:
            self._enter(Step.ALL_ACKNOWLEDGED)
            self._send_shutdown_ack(now)

    def _send_shutdown(self, now: float) -> None:
        self._packets.queue(chunks.Shutdown(self._transfer.receiver.tsns.cumulative & 0xFFFFFFFF))
        self._retry_at = now + self._rto.value

    def _send_shutdown_ack(self, now: float) -> None:
        self._packets.queue(chunks.ShutdownAck())
        self._retry_at = now + self._rto.value

    def _retry(self, now: float) -> None:
        """Retransmit the chunk that T1 or T2 waits for."""
        self.retries += 1
        self._rto.back_off()
        if self.state is AssociationState.SHUTDOWN_SENT:
            self._send_shutdown(now)
        elif self.state is AssociationState.SHUTDOWN_ACK_SENT:
            self._send_shutdown_ack(now)
        else:
            self._send_setup(now)

    def _end(self, reason: AssociationCloseReason, detail: str) -> None:
        self._enter(Step.END)
        self._packets.discard_control()
        self._events.append(AssociationClosed(reason, detail))


HANDLERS: Mapping[int, Callable[[Lifecycle, Any, float], None]] = {
    chunks.Init.type: Lifecycle._receive_init,
    chunks.InitAck.type: Lifecycle._receive_init_ack,
    chunks.Abort.type: Lifecycle._receive_abort,
    chunks.Shutdown.type: Lifecycle._receive_shutdown,
    chunks.ShutdownAck.type: Lifecycle._receive_shutdown_ack,
    chunks.Error.type: Lifecycle._receive_error,
    chunks.CookieEcho.type: Lifecycle._receive_cookie_echo,
    chunks.CookieAck.type: Lifecycle._receive_cookie_ack,
    chunks.ShutdownComplete.type: Lifecycle._receive_shutdown_complete,
}
"""By type, the handler of each chunk of set-up and teardown."""
