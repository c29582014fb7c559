"""A DTLS endpoint as a protocol core: records in and out, flights and their timer, alerts, application data."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from antiphon_common.control import Fingerprint
from antiphon_common.core import Path, Transmit
from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_common.wire import Reader
from antiphon_transceiver.dtls.alerts import (
    AlertDescription,
    AlertLevel,
    CertificateMismatchError,
    CloseAlert,
    HandshakeError,
    decode_alert,
    encode_alert,
)
from antiphon_transceiver.dtls.certificate import Certificate
from antiphon_transceiver.dtls.events import (
    ApplicationDataReceived,
    DtlsClosed,
    DtlsCloseReason,
    DtlsEvent,
    DtlsRole,
    DtlsVersion,
    HandshakeCompleted,
)
from antiphon_transceiver.dtls.flights import (
    ChangeCipherSpec,
    Flight,
    HandshakeReassembler,
    RetransmissionTimer,
    epoch_of,
    pack_flight,
)
from antiphon_transceiver.dtls.messages import Fragment, HandshakeMessage, HandshakeType
from antiphon_transceiver.dtls.record import MAX_PLAINTEXT, ContentType, Record, RecordLayer, split_records
from antiphon_transceiver.dtls.v12.client import ClientHandshake
from antiphon_transceiver.dtls.v12.handshake import HandshakeConfig
from antiphon_transceiver.dtls.v12.server import ServerHandshake
from antiphon_transceiver.srtp.profiles import PREFERRED_PROFILES, SrtpProfile

DEFAULT_MTU = 1200
MIN_MTU = 256
"""Bytes of a datagram; below this the headers would outweigh what they carry."""

HANDSHAKE_DEADLINE = 30.0
"""Seconds from the first flight until we give up: as long as ICE keeps a silent peer."""

FAILURE_DELAY = 0.25
"""Seconds for which a handshake that seems to have failed still waits for a flight that makes it go on (`PendingFailure`): most
round trips, and a flight sent again. The other side, which may doubt as long, is to know of a failure within a second,
although three of our alerts get lost, which takes 0.7 s."""

MAX_EARLY_RECORDS = 16
"""Records held that came before what they depend on: keys, or Finished. More than a flight and its first data."""

MAX_RECORDS = 32
"""Records taken of one datagram; a flight has six, and each of its fragments may have one."""

MAX_FRAGMENTS = 32
"""Handshake fragments taken of one datagram, of all its records together."""

MAX_REJECTIONS = 4
"""Messages that cannot be accepted and that we look at for each time our flight was sent: a signature on P-521 costs
1.5 ms, and the peer needs one right flight."""


class DtlsCounters:
    """What was dropped, and how often we had to send again."""

    def __init__(self) -> None:
        self.malformed = 0
        self.unauthentic = 0
        self.replayed = 0
        self.unexpected = 0
        """Fragments that came again or fit nowhere, records of an epoch that is over or never comes."""
        self.excessive = 0
        """Datagrams cut off behind too many records or fragments, and fragments behind too many rejections."""
        self.impossible = 0
        """Fragments, before the end of the handshake, of messages that the peer's role never sends."""
        self.early_dropped = 0
        self.deferred = 0
        """Alerts and messages that would have ended a handshake, had they been authenticated."""
        self.retransmissions = 0


class PendingFailure(NamedTuple):
    """A handshake seems to have come to its end, but a stranger may have sent what says so.

    Nothing is authenticated before Finished, so a stranger who sends in the peer's name can send an alert, or a message
    that leads nowhere. Neither ends the handshake at once (RFC 6347 §4.1.2.7): messages that cannot be accepted are
    forgotten, back to where our last flight left, that flight is sent again when it is due, and a whole flight of the
    peer disproves the doubt. A peer that really has failed sends none, or another one as bad.
    """

    end: DtlsClosed
    deadline: float


class DtlsEndpoint:
    """One side of a DTLS association, made for the one peer that SDP announced.

    Its five methods are those of `antiphon_common.core.Core`; every `Transmit` has path None. It begins with `start`,
    or as server with the first datagram, and ends with `DtlsClosed`. Drive it on until `poll_timeout` is None: its
    close alert may get lost, and is retransmitted until then. Datagrams of flights have at most `mtu` bytes.
    `random` gives entropy; with the same entropy and input the output is the same.
    """

    def __init__(
        self,
        role: DtlsRole,
        certificate: Certificate,
        peer_fingerprints: Sequence[Fingerprint],
        srtp_profiles: Sequence[SrtpProfile],
        random: Callable[[int], bytes],
        *,
        mtu: int = DEFAULT_MTU,
    ) -> None:
        if mtu < MIN_MTU:
            raise ValueError(f"an MTU of {mtu} bytes is less than {MIN_MTU}")
        self.role = role
        self.mtu = mtu
        self.counters = DtlsCounters()
        config = HandshakeConfig(certificate, tuple(peer_fingerprints), _best_first(srtp_profiles), random)
        self._handshake = self._make_handshake(config)
        self._records = RecordLayer()
        self._reassembler = HandshakeReassembler()
        self._timer = RetransmissionTimer()
        self._flight: Flight = ()
        self._epoch = 0
        """The epoch we write in, apart from flights sent again; 1 behind our ChangeCipherSpec."""
        self._peer_lacks_last_flight = False
        self._peer_wants_renegotiation = False
        self._early: list[Record] = []
        self._give_up_at: float | None = None
        self._checkpoint = (self._handshake.checkpoint(), 0)
        """The handshake and the peer's next message as they were when our last flight left."""
        self._pending_failure: PendingFailure | None = None
        self._rejections = 0
        """Since our flight was last sent."""
        self._fragments_left = 0
        """How many more the datagram may bring; none once one of its messages was rejected."""
        self._closed = False
        self._close_alert: CloseAlert | None = None
        # Both are drained after every call (antiphon_common.core), so one datagram's worth bounds them.
        self._transmits: deque[Transmit] = deque()
        self._events: deque[DtlsEvent] = deque()

    def _make_handshake(self, config: HandshakeConfig) -> ClientHandshake | ServerHandshake:
        return ClientHandshake(config) if self.role is DtlsRole.CLIENT else ServerHandshake(config)

    @property
    def connected(self) -> bool:
        """Whether the handshake is complete and nothing has closed the association since."""
        return self._handshake.connected and not self._closed

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def round_trip(self) -> float | None:
        """Seconds from a flight to its answer, if one was answered without being repeated."""
        return self._timer.round_trip

    def start(self, now: float) -> None:
        """Begin: the client sends its ClientHello, the server waits for one. Both give up after 30 s."""
        if self._give_up_at is not None or self._closed:
            raise LocalProtocolError("a DTLS endpoint starts once")
        self._give_up_at = now + HANDSHAKE_DEADLINE
        if isinstance(self._handshake, ClientHandshake):
            self._send_flight(self._handshake.start(), now)

    def send_application_data(self, data: bytes) -> None:
        """Send `data` in one record of one datagram, 37 bytes longer than it."""
        if not self.connected:
            raise LocalProtocolError("application data outside a connection")
        if len(data) > MAX_PLAINTEXT:
            raise LocalProtocolError(f"{len(data)} bytes do not fit a record")
        self._send_record(ContentType.APPLICATION_DATA, data)

    def export_keying_material(self, label: bytes, length: int) -> bytes:
        """Return `length` bytes for another protocol, equal on both sides (RFC 5705, without context)."""
        schedule = self._handshake.schedule
        if schedule is None or not self._handshake.connected:
            raise LocalProtocolError("keying material before the end of the handshake")
        return schedule.export(label, length)

    def close(self, now: float) -> None:
        """Tell the peer that we are done. Harmless when closed already."""
        if not self._closed:
            self._send_close_alert(AlertLevel.WARNING, AlertDescription.CLOSE_NOTIFY, now)
            self._end(DtlsClosed(DtlsCloseReason.LOCAL_CLOSE, None, ""))

    # The five methods.

    def receive_datagram(self, data: bytes, source: Path | None, now: float) -> None:
        """Take one datagram of the peer; `source` does not matter here."""
        if self._finished:
            return
        if self._give_up_at is None:
            self.start(now)
        self._fragments_left = MAX_FRAGMENTS
        try:
            for count, record in enumerate(split_records(data)):
                if count == MAX_RECORDS:
                    self.counters.excessive += 1
                    break
                self._receive_record(record, now)
        except DecodeError:
            self.counters.malformed += 1
        self._receive_early(now)
        self._answer_old_handshakes()

    def handle_timeout(self, now: float) -> None:
        if self._closed:
            self._retransmit_close_alert(now)
        elif self.connected or self._give_up_at is None:
            return
        elif self._pending_failure is not None and now >= self._pending_failure.deadline:
            self._conclude(self._pending_failure.end, now)
        elif now >= self._give_up_at:
            self._end(DtlsClosed(DtlsCloseReason.TIMEOUT, None, f"no handshake in state {self._handshake.state.name}"))
        elif self._timer.deadline is not None and now >= self._timer.deadline:
            self._transmit_flight()
            self.counters.retransmissions += 1
            self._timer.retransmitted(now)

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> DtlsEvent | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        if self._closed:
            return None if self._close_alert is None else self._close_alert.deadline
        if self.connected or self._give_up_at is None:
            return None
        pending = None if self._pending_failure is None else self._pending_failure.deadline
        return min(due for due in (self._give_up_at, self._timer.deadline, pending) if due is not None)

    # Incoming records.

    def _receive_record(self, record: Record, now: float) -> None:
        if self._finished or (self._closed and record.content_type != ContentType.ALERT):
            return
        if record.epoch > 1 or (record.epoch == 0 and self._handshake.connected):
            self.counters.unexpected += 1
        elif self._is_early(record):
            if len(self._early) < MAX_EARLY_RECORDS:
                self._early.append(record)
            else:
                self.counters.early_dropped += 1
        elif self._records.is_replay(record):
            self.counters.replayed += 1
        else:
            self._open_record(record, now)

    def _open_record(self, record: Record, now: float) -> None:
        try:
            plaintext = self._records.open(record)
        except DecodeError:
            self.counters.unauthentic += 1
            return
        try:
            self._receive_plaintext(record, plaintext, now)
        except DecodeError:
            self.counters.malformed += 1

    def _is_early(self, record: Record) -> bool:
        """Tell whether a record of epoch 1 overtook what it depends on."""
        if record.epoch == 0:
            return False
        waits_for_finished = record.content_type == ContentType.APPLICATION_DATA and not self._handshake.connected
        return waits_for_finished or not self._records.protected

    def _receive_early(self, now: float) -> None:
        """Take the held records again, now that more may be known; Finished first, which data waits for."""
        if self._early and self._records.protected and self._fragments_left:
            early, self._early = self._early, []
            early.sort(key=lambda record: record.content_type == ContentType.APPLICATION_DATA)
            for record in early:
                self._receive_record(record, now)

    def _receive_plaintext(self, record: Record, plaintext: bytes, now: float) -> None:
        match record.content_type:
            case ContentType.HANDSHAKE:
                self._receive_handshake(plaintext, record.epoch, now)
            case ContentType.APPLICATION_DATA if record.epoch:
                self._events.append(ApplicationDataReceived(plaintext))
            case ContentType.ALERT:
                self._receive_alert(plaintext, now)
            case ContentType.CHANGE_CIPHER_SPEC:
                pass  # the epoch of the records that follow says the same
            case _:
                self.counters.unexpected += 1

    # Handshake.

    def _receive_handshake(self, payload: bytes, epoch: int, now: float) -> None:
        if self._flight and self._rejections >= MAX_REJECTIONS:
            self._fragments_left = 0
        reader = Reader(payload)
        while reader.remaining and not self._closed:
            if not self._fragments_left:
                self.counters.excessive += 1
                return
            self._fragments_left -= 1
            fragment = Fragment.pull(reader)
            if self._handshake.connected:
                self._receive_fragment_when_connected(fragment)
            elif not self._handshake.is_sent_by_peer(fragment.type):
                self.counters.impossible += 1
            elif epoch != epoch_of(fragment.type) or not self._reassembler.push(fragment):
                self.counters.unexpected += 1
            else:
                self._receive_messages(now)

    def _receive_fragment_when_connected(self, fragment: Fragment) -> None:
        """Take a fragment of epoch 1 after the handshake: an old flight again, or a wish to renegotiate."""
        if fragment.type == HandshakeType.FINISHED and self.role is DtlsRole.SERVER:
            # This fragment is authenticated, so nobody but the client can make us talk.
            self._peer_lacks_last_flight = True
        elif fragment.type in (HandshakeType.HELLO_REQUEST, HandshakeType.CLIENT_HELLO):
            self._peer_wants_renegotiation = True
        else:
            self.counters.unexpected += 1

    def _answer_old_handshakes(self) -> None:
        """Send what the datagram asked for after the handshake, once however often it asked."""
        if self._peer_lacks_last_flight and not self._closed:  # RFC 6347 §4.2.4
            self._transmit_flight()
            self.counters.retransmissions += 1
        if self._peer_wants_renegotiation and not self._closed:  # RFC 5246 §7.2.2
            self._send_alert(AlertLevel.WARNING, AlertDescription.NO_RENEGOTIATION)
        self._peer_lacks_last_flight = self._peer_wants_renegotiation = False

    def _receive_messages(self, now: float) -> None:
        try:
            while not self._handshake.connected and (message := self._reassembler.pop()) is not None:
                self._receive_message(message, now)
        except CertificateMismatchError as error:
            self._reject(DtlsClosed(DtlsCloseReason.CERTIFICATE_MISMATCH, error.alert, str(error)), now)
        except HandshakeError as error:
            self._reject(DtlsClosed(DtlsCloseReason.ALERT_SENT, error.alert, str(error)), now)
        except DecodeError as error:
            self._reject(DtlsClosed(DtlsCloseReason.ALERT_SENT, AlertDescription.DECODE_ERROR, str(error)), now)

    def _receive_message(self, message: HandshakeMessage, now: float) -> None:
        self._timer.answer_received(now)
        flight = self._handshake.receive(message)
        if self._handshake.schedule is not None and not self._records.protected:
            self._records.protect(*self._handshake.protections())
        if flight:
            self._send_flight(flight, now)
        if self._handshake.connected:
            self._complete()

    def _complete(self) -> None:
        self._pending_failure = None
        self._timer.stop()
        cipher_suite = self._handshake.cipher_suite
        if cipher_suite is None:
            raise AssertionError("a handshake complete without a cipher suite")
        self._events.append(HandshakeCompleted(DtlsVersion.DTLS_1_2, cipher_suite, self._handshake.srtp_profile))

    # Alerts and the end.

    @property
    def _finished(self) -> bool:
        """Whether nothing is left to be said, the last words included."""
        return self._closed and (self._close_alert is None or self._close_alert.deadline is None)

    def _receive_alert(self, payload: bytes, now: float) -> None:
        level, description = decode_alert(payload)
        if self._close_alert is not None:
            self._close_alert.answered()
            return
        if description == AlertDescription.CLOSE_NOTIFY:
            end = DtlsClosed(DtlsCloseReason.CLOSE_NOTIFY, description, "")
        elif level == AlertLevel.FATAL:
            end = DtlsClosed(DtlsCloseReason.ALERT_RECEIVED, description, f"alert {description} from the peer")
        else:
            return
        if self._handshake.connected:
            self._conclude(end, now)
        else:
            self._defer_failure(end, now)

    def _defer_failure(self, end: DtlsClosed, now: float) -> None:
        """Remember why the handshake ends if nothing better comes."""
        self.counters.deferred += 1
        if self._pending_failure is None:
            self._pending_failure = PendingFailure(end, now + FAILURE_DELAY)

    def _reject(self, end: DtlsClosed, now: float) -> None:
        """Forget what the peer seems to have said since our last flight left."""
        self._defer_failure(end, now)
        self._rejections += 1
        self._fragments_left = 0
        handshake, next_sequence = self._checkpoint
        self._handshake.restore(handshake)
        self._reassembler.restore(next_sequence)
        if self._handshake.schedule is None:
            self._records.discard_keys()

    def _conclude(self, end: DtlsClosed, now: float) -> None:
        """End for good, and say so to a peer that does not know."""
        if end.reason is DtlsCloseReason.CLOSE_NOTIFY:
            self._send_alert(AlertLevel.WARNING, AlertDescription.CLOSE_NOTIFY)
        elif end.reason is not DtlsCloseReason.ALERT_RECEIVED and end.alert is not None:
            self._send_close_alert(AlertLevel.FATAL, AlertDescription(end.alert), now)
        self._end(end)

    def _send_close_alert(self, level: AlertLevel, description: AlertDescription, now: float) -> None:
        self._send_alert(level, description)
        if self._give_up_at is not None:  # else nobody has heard of us yet
            self._close_alert = CloseAlert(level, description, now)

    def _retransmit_close_alert(self, now: float) -> None:
        alert = self._close_alert
        if alert is not None and alert.deadline is not None and now >= alert.deadline:
            self._send_alert(alert.level, alert.description)
            alert.retransmitted(now)

    def _end(self, end: DtlsClosed) -> None:
        self._closed = True
        self._timer.stop()
        self._early.clear()
        self._events.append(end)

    # Outgoing.

    def _send_flight(self, flight: Flight, now: float) -> None:
        self._flight = flight
        if ChangeCipherSpec() in flight:
            self._epoch = 1
        self._pending_failure = None
        self._checkpoint = (self._handshake.checkpoint(), self._reassembler.next_sequence)
        self._transmit_flight()
        self._timer.sent(now)

    def _transmit_flight(self) -> None:
        self._rejections = 0
        for datagram in pack_flight(self._flight, self._records, self.mtu):
            self._transmits.append(Transmit(datagram, None))

    def _send_alert(self, level: AlertLevel, description: AlertDescription) -> None:
        self._send_record(ContentType.ALERT, encode_alert(level, description))

    def _send_record(self, content_type: ContentType, payload: bytes) -> None:
        """Send one record in a datagram of its own."""
        self._transmits.append(Transmit(self._records.encode(content_type, self._epoch, payload), None))


def _best_first(profiles: Sequence[SrtpProfile]) -> tuple[SrtpProfile, ...]:
    return tuple(profile for profile in PREFERRED_PROFILES if profile in profiles)
