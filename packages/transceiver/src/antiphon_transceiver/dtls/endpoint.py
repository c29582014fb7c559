"""A DTLS endpoint as a protocol core: records, alerts, application data. `HandshakeLayer` runs the handshake."""

from collections import deque
from collections.abc import Callable, Sequence
from math import inf

from antiphon_common.control import Fingerprint
from antiphon_common.core import Path, Transmit
from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_transceiver.dtls.alerts import (
    AlertDescription,
    AlertLevel,
    CloseAlert,
    decode_alert,
    encode_alert,
)
from antiphon_transceiver.dtls.certificate import Certificate
from antiphon_transceiver.dtls.counters import DtlsCounters
from antiphon_transceiver.dtls.events import ApplicationDataReceived, DtlsClosed, DtlsCloseReason, DtlsEvent, DtlsRole
from antiphon_transceiver.dtls.handshake_layer import HandshakeLayer
from antiphon_transceiver.dtls.record import MAX_PLAINTEXT, ContentType, Record, RecordLayer, split_records
from antiphon_transceiver.dtls.v12.client import ClientHandshake
from antiphon_transceiver.dtls.v12.handshake import HandshakeConfig
from antiphon_transceiver.dtls.v12.server import ServerHandshake
from antiphon_transceiver.srtp.profiles import PREFERRED_PROFILES, SrtpProfile

DEFAULT_MTU = 1200
MIN_MTU = 256
"""Bytes of a datagram. With a smaller MTU the headers would be larger than the payload."""

HANDSHAKE_DEADLINE = 30.0
"""Seconds from the start until the handshake fails: as long as ICE keeps a peer that does not answer."""

MAX_EARLY_RECORDS = 16
"""Records held until the keys, or Finished, are received. A flight and the first data behind it are fewer."""

MAX_RECORDS = 32
"""Records read of one datagram; a flight has six, and each of its fragments may have a record of its own."""


class DtlsEndpoint:
    """One side of a DTLS association with the one peer that SDP announced.

    Its five methods are those of `antiphon_common.core.Core`; every `Transmit` has path None. It begins with `start`,
    or as server with the first datagram, and ends with `DtlsClosed`. Drive it on until `poll_timeout` is infinity: its
    close alert may get lost, and is retransmitted until then. Flights have datagrams of at most `mtu` bytes. `random`
    returns entropy; with the same entropy and input the output is the same.

    Raises:
        ValueError: `mtu` is less than `MIN_MTU`.
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
        config = HandshakeConfig(certificate, tuple(peer_fingerprints), _in_order_of_preference(srtp_profiles), random)
        # Both are drained after every call (antiphon_common.core), so the output of one datagram bounds them.
        self._transmits: deque[Transmit] = deque()
        self._events: deque[DtlsEvent] = deque()
        self._handshake = self._make_handshake(config)
        self.records = RecordLayer()
        self.handshake_layer = HandshakeLayer(
            self._handshake, self.records, self._transmits, self._events, self.counters, mtu
        )
        self._early: list[Record] = []
        self._give_up_at = inf
        self._closed = False
        self._close_alert: CloseAlert | None = None

    def _make_handshake(self, config: HandshakeConfig) -> ClientHandshake | ServerHandshake:
        return ClientHandshake(config) if self.role is DtlsRole.CLIENT else ServerHandshake(config)

    @property
    def connected(self) -> bool:
        """Whether the handshake is complete and the association is not closed."""
        return self._handshake.connected and not self._closed

    @property
    def closed(self) -> bool:
        """Whether `DtlsClosed` has been queued."""
        return self._closed

    @property
    def round_trip(self) -> float | None:
        """Seconds from a flight to its answer, or None if every flight was retransmitted."""
        return self.handshake_layer.round_trip

    def start(self, now: float) -> None:
        """Begin: the client sends its ClientHello, the server waits for one. The handshake fails after 30 s.

        Raises:
            LocalProtocolError: The endpoint was started before, or is closed.
        """
        if self._give_up_at < inf or self._closed:
            raise LocalProtocolError("a DTLS endpoint starts once")
        self._give_up_at = now + HANDSHAKE_DEADLINE
        self.handshake_layer.start(now)

    def send_application_data(self, data: bytes) -> None:
        """Send `data` in one record of one datagram, which is 37 bytes longer.

        Raises:
            LocalProtocolError: The endpoint is not connected, or `data` has more than `MAX_PLAINTEXT` bytes.
        """
        if not self.connected:
            raise LocalProtocolError("application data outside a connection")
        if len(data) > MAX_PLAINTEXT:
            raise LocalProtocolError(f"{len(data)} bytes do not fit a record")
        self._send_record(ContentType.APPLICATION_DATA, data)

    def export_keying_material(self, label: bytes, length: int) -> bytes:
        """Return `length` bytes for another protocol, the same on both sides (RFC 5705, without context).

        Raises:
            LocalProtocolError: The handshake is not complete.
        """
        schedule = self._handshake.schedule
        if schedule is None or not self._handshake.connected:
            raise LocalProtocolError("keying material before the end of the handshake")
        return schedule.export(label, length)

    def close(self, now: float) -> None:
        """Send close_notify and close. It has no effect on a closed endpoint."""
        if not self._closed:
            self._send_close_alert(AlertLevel.WARNING, AlertDescription.CLOSE_NOTIFY, now)
            self._end(DtlsClosed(DtlsCloseReason.LOCAL_CLOSE, None, ""))

    # The five methods.

    def receive_datagram(self, data: bytes, source: Path | None, now: float) -> None:
        """Handle one datagram of the peer; `source` is ignored."""
        if self._finished:
            return
        if self._give_up_at == inf:
            self.start(now)
        self.handshake_layer.begin_datagram()
        try:
            for count, record in enumerate(split_records(data)):
                if count == MAX_RECORDS:
                    self.counters.excessive += 1
                    break
                self._receive_record(record, now)
        except DecodeError:
            self.counters.malformed += 1
        self._receive_early(now)
        if not self._closed:
            self.handshake_layer.retransmit_last_flight()
            self._refuse_renegotiation()

    def handle_timeout(self, now: float) -> None:
        if self._closed:
            self._retransmit_close_alert(now)
        elif self.connected or self._give_up_at == inf:
            return
        elif (failure := self.handshake_layer.failure(now)) is not None:
            self._conclude(failure, now)
        elif now >= self._give_up_at:
            self._end(DtlsClosed(DtlsCloseReason.TIMEOUT, None, f"no handshake in state {self._handshake.state.name}"))
        else:
            self.handshake_layer.handle_timeout(now)

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> DtlsEvent | None:
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float:
        if self._closed:
            return inf if self._close_alert is None else self._close_alert.deadline
        if self.connected or self._give_up_at == inf:
            return inf
        return min(self._give_up_at, self.handshake_layer.deadline)

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
        elif self.records.is_replay(record):
            self.counters.replayed += 1
        else:
            self._open_record(record, now)

    def _open_record(self, record: Record, now: float) -> None:
        try:
            plaintext = self.records.open(record)
        except DecodeError:
            self.counters.unauthentic += 1
            return
        try:
            self._receive_plaintext(record, plaintext, now)
        except DecodeError:
            self.counters.malformed += 1

    def _is_early(self, record: Record) -> bool:
        """Return True if a record of epoch 1 arrived before the keys or the Finished that it needs."""
        if record.epoch == 0:
            return False
        waits_for_finished = record.content_type == ContentType.APPLICATION_DATA and not self._handshake.connected
        return waits_for_finished or not self.records.protected

    def _receive_early(self, now: float) -> None:
        """Handle the early records once the keys are known; Finished first, since application data waits for it."""
        if self._early and self.records.protected and not self.handshake_layer.exhausted:
            early, self._early = self._early, []
            early.sort(key=lambda record: record.content_type == ContentType.APPLICATION_DATA)
            for record in early:
                self._receive_record(record, now)

    def _receive_plaintext(self, record: Record, plaintext: bytes, now: float) -> None:
        match record.content_type:
            case ContentType.HANDSHAKE:
                self.handshake_layer.receive(plaintext, record.epoch, now)
            case ContentType.APPLICATION_DATA if record.epoch:
                self._events.append(ApplicationDataReceived(plaintext))
            case ContentType.ALERT:
                self._receive_alert(plaintext, now)
            case ContentType.CHANGE_CIPHER_SPEC:
                pass  # the epoch of the following records has the same meaning
            case _:
                self.counters.unexpected += 1

    def _refuse_renegotiation(self) -> None:
        """Answer a request to renegotiate, once for each datagram (RFC 5246 §7.2.2)."""
        if self.handshake_layer.renegotiation_requested:
            self._send_alert(AlertLevel.WARNING, AlertDescription.NO_RENEGOTIATION)
            self.handshake_layer.renegotiation_requested = False

    # Alerts and closing.

    @property
    def _finished(self) -> bool:
        """Whether the endpoint is closed and will not retransmit its close alert."""
        return self._closed and (self._close_alert is None or self._close_alert.deadline == inf)

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
            self.handshake_layer.defer(end, now)

    def _conclude(self, end: DtlsClosed, now: float) -> None:
        """Close, and send the alert that the peer does not know of yet."""
        if end.reason is DtlsCloseReason.CLOSE_NOTIFY:
            self._send_alert(AlertLevel.WARNING, AlertDescription.CLOSE_NOTIFY)
        elif end.reason is not DtlsCloseReason.ALERT_RECEIVED and end.alert is not None:
            self._send_close_alert(AlertLevel.FATAL, AlertDescription(end.alert), now)
        self._end(end)

    def _send_close_alert(self, level: AlertLevel, description: AlertDescription, now: float) -> None:
        self._send_alert(level, description)
        if self._give_up_at < inf:  # otherwise the peer has received nothing from us
            self._close_alert = CloseAlert(level, description, now)

    def _retransmit_close_alert(self, now: float) -> None:
        alert = self._close_alert
        if alert is not None and now >= alert.deadline:
            self._send_alert(alert.level, alert.description)
            alert.retransmitted(now)

    def _end(self, end: DtlsClosed) -> None:
        self._closed = True
        self.handshake_layer.stop()
        self._early.clear()
        self._events.append(end)

    # Outgoing.

    def _send_alert(self, level: AlertLevel, description: AlertDescription) -> None:
        self._send_record(ContentType.ALERT, encode_alert(level, description))

    def _send_record(self, content_type: ContentType, payload: bytes) -> None:
        """Send one record in a datagram of its own."""
        self._transmits.append(Transmit(self.records.encode(content_type, self.handshake_layer.epoch, payload), None))


def _in_order_of_preference(profiles: Sequence[SrtpProfile]) -> tuple[SrtpProfile, ...]:
    return tuple(profile for profile in PREFERRED_PROFILES if profile in profiles)
