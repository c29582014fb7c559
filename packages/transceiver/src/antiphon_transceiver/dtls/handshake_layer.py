"""The handshake of an endpoint over records: reassembly, flights, their timer, and failures that are not final yet."""

from collections import deque
from math import inf
from typing import NamedTuple

from antiphon_common.core import Transmit
from antiphon_common.errors import DecodeError
from antiphon_common.wire import Reader
from antiphon_transceiver.dtls.alerts import AlertDescription, CertificateMismatchError, HandshakeError
from antiphon_transceiver.dtls.counters import DtlsCounters
from antiphon_transceiver.dtls.events import DtlsClosed, DtlsCloseReason, DtlsEvent, DtlsVersion, HandshakeCompleted
from antiphon_transceiver.dtls.flights import (
    ChangeCipherSpec,
    Flight,
    HandshakeReassembler,
    RetransmissionTimer,
    epoch_of,
    pack_flight,
)
from antiphon_transceiver.dtls.messages import Fragment, HandshakeMessage, HandshakeType
from antiphon_transceiver.dtls.record import RecordLayer
from antiphon_transceiver.dtls.v12.client import ClientHandshake
from antiphon_transceiver.dtls.v12.server import ServerHandshake

FAILURE_DELAY = 0.25
"""Seconds until a pending failure ends the handshake: enough for most round trips and one retransmission of a flight.
The peer must receive our alert within a second of the failure, even if it is lost three times, which takes 0.7 s."""

MAX_FRAGMENTS = 32
"""Handshake fragments accepted of one datagram, of all its records together."""

MAX_REJECTIONS = 4
"""Messages rejected for each transmission of our flight; the rest is dropped unread. A signature on P-521 costs 1.5 ms,
and the peer needs one right flight."""


class PendingFailure(NamedTuple):
    """A reason to end the handshake that may have come from an off-path attacker.

    Nothing is authenticated before Finished, so alerts and messages may have a spoofed source. They do not end the
    handshake at once (RFC 6347 §4.1.2.7). After a message that cannot be accepted, the handshake returns to where our
    last flight was sent. The timer retransmits that flight, and a whole flight of the peer cancels the failure. A peer
    that has really failed sends no flight, or another one that cannot be accepted.
    """

    end: DtlsClosed
    deadline: float


class HandshakeLayer:
    """Runs a `ClientHandshake` or `ServerHandshake` over the record layer.

    The endpoint passes each handshake payload to `receive`, and closes with `failure` once it is due. Flights go to
    `transmits` and `HandshakeCompleted` to `events`, which the endpoint owns. Flights have datagrams of `mtu` bytes.
    """

    def __init__(
        self,
        handshake: ClientHandshake | ServerHandshake,
        records: RecordLayer,
        transmits: deque[Transmit],
        events: deque[DtlsEvent],
        counters: DtlsCounters,
        mtu: int,
    ) -> None:
        self.handshake = handshake
        self.mtu = mtu
        self._timer = RetransmissionTimer()
        self.epoch = 0
        """The epoch we write in: 1 after our ChangeCipherSpec. Retransmitted flights use the epoch of each message."""
        self._records = records
        self._transmits = transmits
        self._events = events
        self._counters = counters
        self.reassembler = HandshakeReassembler()
        self._flight: Flight = ()
        self._peer_lacks_last_flight = False
        self._checkpoint = (handshake.checkpoint(), 0)
        """The handshake, and the message_seq of the peer's next message, when our last flight was sent."""
        self._pending_failure: PendingFailure | None = None
        self._rejections = 0
        """Messages rejected since our flight was last sent."""
        self._fragments_left = 0
        """Fragments that the datagram may still bring. It is 0 after a message of it was rejected."""
        self.renegotiation_requested = False
        """Whether the peer asked for a renegotiation. The endpoint answers and clears it."""

    @property
    def round_trip(self) -> float | None:
        """Seconds from a flight to its answer, or None if every flight was retransmitted."""
        return self._timer.round_trip

    @property
    def exhausted(self) -> bool:
        """Whether no more fragments of this datagram are accepted."""
        return not self._fragments_left

    @property
    def deadline(self) -> float:
        """When `handle_timeout` or `failure` is due; infinity if never."""
        failure = inf if self._pending_failure is None else self._pending_failure.deadline
        return min(self._timer.deadline, failure)

    def start(self, now: float) -> None:
        """Send the first flight, if we are the client."""
        if isinstance(self.handshake, ClientHandshake):
            self._send_flight(self.handshake.start(), now)

    # Messages of the peer.

    def begin_datagram(self) -> None:
        """Accept `MAX_FRAGMENTS` fragments of the next datagram."""
        self._fragments_left = MAX_FRAGMENTS

    def receive(self, payload: bytes, epoch: int, now: float) -> None:
        """Handle the handshake payload of one record.

        Raises:
            DecodeError: A fragment is malformed.
        """
        if self._flight and self._rejections >= MAX_REJECTIONS:
            self._fragments_left = 0
        reader = Reader(payload)
        while reader.remaining:
            if not self._fragments_left:
                self._counters.excessive += 1
                return
            self._fragments_left -= 1
            fragment = Fragment.pull(reader)
            if self.handshake.connected:
                self._receive_fragment_when_connected(fragment)
            elif not self.handshake.is_sent_by_peer(fragment.type):
                self._counters.impossible += 1
            elif epoch != epoch_of(fragment.type) or not self.reassembler.push(fragment):
                self._counters.unexpected += 1
            else:
                self._receive_messages(now)

    def _receive_fragment_when_connected(self, fragment: Fragment) -> None:
        """Handle a fragment of epoch 1 after the handshake: a retransmitted flight, or a request to renegotiate."""
        if fragment.type == HandshakeType.FINISHED and isinstance(self.handshake, ServerHandshake):
            # The fragment is authenticated, so only the client can make us retransmit.
            self._peer_lacks_last_flight = True
        elif fragment.type in (HandshakeType.HELLO_REQUEST, HandshakeType.CLIENT_HELLO):
            self.renegotiation_requested = True
        else:
            self._counters.unexpected += 1

    def retransmit_last_flight(self) -> None:
        """Retransmit our last flight if the datagram showed that the peer lacks it (RFC 6347 §4.2.4)."""
        if self._peer_lacks_last_flight:
            self._transmit_flight()
            self._counters.retransmissions += 1
            self._peer_lacks_last_flight = False

    def _receive_messages(self, now: float) -> None:
        try:
            while not self.handshake.connected and (message := self.reassembler.pop()) is not None:
                self._receive_message(message, now)
        except CertificateMismatchError as error:
            self._reject(DtlsClosed(DtlsCloseReason.CERTIFICATE_MISMATCH, error.alert, str(error)), now)
        except HandshakeError as error:
            self._reject(DtlsClosed(DtlsCloseReason.ALERT_SENT, error.alert, str(error)), now)
        except DecodeError as error:
            self._reject(DtlsClosed(DtlsCloseReason.ALERT_SENT, AlertDescription.DECODE_ERROR, str(error)), now)

    def _receive_message(self, message: HandshakeMessage, now: float) -> None:
        self._timer.answer_received(now)
        flight = self.handshake.receive(message)
        if self.handshake.schedule is not None and not self._records.protected:
            self._records.protect(*self.handshake.protections())
        if flight:
            self._send_flight(flight, now)
        if self.handshake.connected:
            self._complete()

    def _complete(self) -> None:
        self._pending_failure = None
        self._timer.stop()
        cipher_suite = self.handshake.cipher_suite
        if cipher_suite is None:
            raise AssertionError("a handshake complete without a cipher suite")
        self._events.append(HandshakeCompleted(DtlsVersion.DTLS_1_2, cipher_suite, self.handshake.srtp_profile))

    # Failures.

    def defer(self, end: DtlsClosed, now: float) -> None:
        """Let the handshake fail for this reason after `FAILURE_DELAY`, unless a flight of the peer comes before."""
        self._counters.deferred += 1
        if self._pending_failure is None:
            self._pending_failure = PendingFailure(end, now + FAILURE_DELAY)

    def failure(self, now: float) -> DtlsClosed | None:
        """Return why the handshake has failed, or None if no failure is due."""
        failure = self._pending_failure
        return failure.end if failure is not None and now >= failure.deadline else None

    def _reject(self, end: DtlsClosed, now: float) -> None:
        """Undo everything that was received since our last flight was sent, and defer the failure."""
        self.defer(end, now)
        self._rejections += 1
        self._fragments_left = 0
        handshake, next_sequence = self._checkpoint
        self.handshake.restore(handshake)
        self.reassembler.restore(next_sequence)
        if self.handshake.schedule is None:
            self._records.discard_keys()

    # Flights.

    def handle_timeout(self, now: float) -> None:
        """Retransmit our flight if that is due."""
        if now >= self._timer.deadline:
            self._transmit_flight()
            self._counters.retransmissions += 1
            self._timer.retransmitted(now)

    def stop(self) -> None:
        """Stop the retransmission timer, since the endpoint is closed."""
        self._timer.stop()

    def _send_flight(self, flight: Flight, now: float) -> None:
        self._flight = flight
        if ChangeCipherSpec() in flight:
            self.epoch = 1
        self._pending_failure = None
        self._checkpoint = (self.handshake.checkpoint(), self.reassembler.next_sequence)
        self._transmit_flight()
        self._timer.sent(now)

    def _transmit_flight(self) -> None:
        self._rejections = 0
        for datagram in pack_flight(self._flight, self._records, self.mtu):
            self._transmits.append(Transmit(datagram, None))
