"""The transport to one peer as a protocol core: ICE, DTLS, SRTP, and data channels over SCTP, muxed on one port.

    network ──▶ receive_datagram ──▶ STUN: agent   DTLS: dtls ──▶ channels   SRTP ──▶ RtpReceived, RtcpReceived
    network ◀── poll_transmit    ◀── agent         dtls ◀── channels         SRTP ◀── send_rtp, send_rtcp

It serves both roles: the transceiver uses it with a `ControlledAgent`, the test client with a `ControllingAgent`. The
first byte of a datagram tells the protocols apart (RFC 7983).
"""

import typing
from collections import deque
from enum import Enum, auto
from math import inf
from typing import Generic, TypeVar

from antiphon_common.core import Core, Path, Transmit
from antiphon_common.demux import Protocol, classify
from antiphon_common.errors import DecodeError, LocalProtocolError
from antiphon_transceiver import dtls, ice
from antiphon_transceiver.srtp import EXPORTER_LABEL, SrtpProfile, SrtpSession, keying_material_length
from antiphon_transceiver.transport_events import (
    Closed,
    Connected,
    RtcpReceived,
    RtpReceived,
    TransportCloseReason,
    TransportEvent,
)

FIRST_CHECK_TIMEOUT = 15.0
"""Seconds from the start to the first path: a client begins to check once it has the answer."""

SETUP_TIMEOUT = 30.0
"""Seconds from the start to a complete handshake: a phone on a bad network, and a person who waits."""

MAX_EARLY_PACKETS = 75
"""SRTP packets held while the peer already has keys and we do not: 1.5 s of 20 ms each. By then a peer has
retransmitted a lost last flight, even if it waits a second as RFC 6347 §4.2.4.1 recommends. The oldest are dropped."""

ChannelEvent = TypeVar("ChannelEvent")
ChannelEvent_co = TypeVar("ChannelEvent_co", covariant=True)


class ChannelCore(Core[ChannelEvent_co], typing.Protocol[ChannelEvent_co]):
    """What runs inside DTLS: a `DataChannelEndpoint`, or a core around one.

    A datagram is the content of one record; every `Transmit` has path None.
    """

    def receive_datagram(self, data: bytes, source: Path | None, now: float) -> None:
        """Take one SCTP packet; `source` does not matter here."""

    def start(self, now: float, round_trip: float | None) -> None:
        """Begin, once DTLS is connected; `round_trip` is what it measured, in seconds."""

    def abort(self, now: float) -> None:
        """End at once."""


class TransportState(Enum):
    """The state of a transport; `STALLED` is a handshake on a path that fell silent."""

    NEW = auto()
    CONNECTING = auto()
    STALLED = auto()
    CONNECTED = auto()
    DISCONNECTED = auto()
    CLOSED = auto()


class TransportStep(Enum):
    """What moves a transport from one state to another."""

    PATH_FOUND = auto()
    HANDSHAKE_COMPLETED = auto()
    PEER_DISCONNECTED = auto()
    PEER_RECONNECTED = auto()
    CLOSED = auto()


TRANSITIONS = {
    (TransportState.NEW, TransportStep.PATH_FOUND): TransportState.CONNECTING,
    (TransportState.NEW, TransportStep.CLOSED): TransportState.CLOSED,
    (TransportState.CONNECTING, TransportStep.HANDSHAKE_COMPLETED): TransportState.CONNECTED,
    (TransportState.CONNECTING, TransportStep.PEER_DISCONNECTED): TransportState.STALLED,
    (TransportState.CONNECTING, TransportStep.CLOSED): TransportState.CLOSED,
    (TransportState.STALLED, TransportStep.PEER_RECONNECTED): TransportState.CONNECTING,
    (TransportState.STALLED, TransportStep.HANDSHAKE_COMPLETED): TransportState.DISCONNECTED,
    (TransportState.STALLED, TransportStep.CLOSED): TransportState.CLOSED,
    (TransportState.CONNECTED, TransportStep.PEER_DISCONNECTED): TransportState.DISCONNECTED,
    (TransportState.CONNECTED, TransportStep.CLOSED): TransportState.CLOSED,
    (TransportState.DISCONNECTED, TransportStep.PEER_RECONNECTED): TransportState.CONNECTED,
    (TransportState.DISCONNECTED, TransportStep.CLOSED): TransportState.CLOSED,
}
"""Every transition. In STALLED and DISCONNECTED only checks and handshake flights are sent."""

_CLOSED_BY_DTLS = {
    dtls.DtlsCloseReason.CLOSE_NOTIFY: TransportCloseReason.CLOSE_NOTIFY,
    dtls.DtlsCloseReason.LOCAL_CLOSE: TransportCloseReason.LOCAL,
    dtls.DtlsCloseReason.CERTIFICATE_MISMATCH: TransportCloseReason.CERTIFICATE_MISMATCH,
    dtls.DtlsCloseReason.TIMEOUT: TransportCloseReason.HANDSHAKE_TIMEOUT,
    dtls.DtlsCloseReason.ALERT_RECEIVED: TransportCloseReason.DTLS_ALERT,
    dtls.DtlsCloseReason.ALERT_SENT: TransportCloseReason.DTLS_ALERT,
}

_CLOSED_BY_ICE = {
    ice.IceFailure.NO_ANSWER: TransportCloseReason.NO_ANSWER,
    ice.IceFailure.CONSENT_EXPIRED: TransportCloseReason.CONSENT_EXPIRED,
    ice.IceFailure.ROLE_CONFLICT: TransportCloseReason.ROLE_CONFLICT,
}


class TransportCounters:
    """Datagrams that a transport dropped or did not send, by reason."""

    __slots__ = ("over_budget", "srtp_early", "srtp_failed", "unknown_protocol")

    def __init__(self) -> None:
        self.unknown_protocol = 0
        """Neither STUN, DTLS nor SRTP; or DTLS by a path without an authenticated check."""
        self.srtp_early = 0
        self.srtp_failed = 0
        self.over_budget = 0
        """Not sent, since the three-fold limit of an unvalidated path forbade it."""


class PeerTransport(Generic[ChannelEvent]):
    """The transport to one peer, from its first check to its end.

    Make it of its parts, drive it by the five methods, and send with `send_rtp` and `send_rtcp`. The events of
    `channels` are among its events. After an action on one of the parts call `flush`, and after one that only queues
    something `update_timeout`. No event follows `Closed`, but the close alert is retransmitted until `poll_timeout`
    is infinite.
    """

    def __init__(
        self,
        agent: ice.IceAgent,
        endpoint: dtls.DtlsEndpoint,
        channels: ChannelCore[ChannelEvent] | None,
        now: float,
    ) -> None:
        self.agent = agent
        self.dtls = endpoint
        self.channels = channels
        self.counters = TransportCounters()
        self.state = TransportState.NEW
        self.authenticated = False
        """Whether the latest datagram was authenticated: a check or its response, SRTP, or DTLS with keys."""
        self.srtp: SrtpSession | None = None
        """None until the handshake is complete; kept after the end."""
        self._early: deque[tuple[bytes, float]] = deque(maxlen=MAX_EARLY_PACKETS)
        """SRTP that arrived before its keys, and when."""
        self.events: deque[TransportEvent | ChannelEvent] = deque()
        """What `poll_event` returns, oldest first."""
        self.transmits: deque[Transmit] = deque()
        """What `poll_transmit` returns, oldest first."""
        self._handshake_path: Path | None = None
        """The path of the latest DTLS datagram; the one to send to while the agent has selected none."""
        self._handshake_sent_to: set[Path] = set()
        """Where our handshake flights were sent; at most two are kept, since the second one rules validation out."""
        self._settled: ice.PathState | None = None
        """The path that needs no reports to the agent, if there is one."""
        self._started = now
        self._first_path_at = now
        self.deadline = now + FIRST_CHECK_TIMEOUT
        """What `poll_timeout` returns."""

    # Input

    def receive_datagram(self, data: bytes, source: Path, now: float) -> None:
        """Take one datagram; what is wrong with it is counted. `authenticated` is set accordingly."""
        self.authenticated = False
        if self.state is TransportState.CLOSED:
            return
        protocol = classify(data)
        if protocol == Protocol.RTP:
            if self.srtp is None:
                self._hold_early(data, source, now)
                return
            try:  # not a method of its own, since most datagrams come here
                packet = self.srtp.unprotect_rtp(data)
            except DecodeError:
                self.counters.srtp_failed += 1
                return
            self.authenticated = True
            settled = self._settled
            if settled is not None and source == settled.path:
                settled.last_received = now
            else:
                self._report_received(source, len(data), now)
            self.events.append(RtpReceived(packet, now))
        elif protocol == Protocol.STUN:
            self.agent.receive_datagram(data, source, now)
            self.authenticated = self.agent.authenticated
            self.flush(now)
        elif protocol == Protocol.DTLS:
            self._receive_dtls(data, source, now)
        elif protocol == Protocol.RTCP:
            self._receive_srtcp(data, source, now)
        else:
            self.counters.unknown_protocol += 1

    def handle_timeout(self, now: float) -> None:
        """Let each part do what is due."""
        if now < self.deadline:
            return
        if self.state is TransportState.CLOSED:
            # The close alert may get lost. The paths are released by now, so that no answer to it needs to arrive.
            self.dtls.handle_timeout(now)
            self._send_from_parts()
            self.update_timeout()
        else:
            self.agent.handle_timeout(now)
            self.dtls.handle_timeout(now)
            if self.channels is not None:
                self.channels.handle_timeout(now)
                self._collect_channel_events(self.channels)
            self.flush(now)
            self._check_setup(now)

    # Local actions

    def send_rtp(self, packet: bytes) -> bytes:
        """Protect and send an RTP packet; return the SRTP packet. Raises LocalProtocolError before `Connected`."""
        if self.srtp is None:
            raise LocalProtocolError("RTP before the end of the handshake")
        protected = self.srtp.protect_rtp(packet)
        self.send_protected(protected)
        return protected

    def send_rtcp(self, packet: bytes) -> None:
        """Protect and send an RTCP packet. Raises LocalProtocolError before `Connected`."""
        if self.srtp is None:
            raise LocalProtocolError("RTCP before the end of the handshake")
        self.send_protected(self.srtp.protect_rtcp(packet))

    def send_protected(self, data: bytes) -> None:
        """Send a datagram to the selected path, or before there is one, to that of the handshake."""
        if self._settled is not None and self.srtp is not None:
            self.transmits.append(Transmit(data, self._settled.path))
            return
        path = self.agent.selected or self._handshake_path
        if path is None or not self.agent.may_send(path, len(data)):
            self.counters.over_budget += 1
            return
        self.agent.sent(path, len(data))
        self.transmits.append(Transmit(data, path))
        if self.srtp is None and len(self._handshake_sent_to) < 2:
            self._handshake_sent_to.add(path)

    def flush(self, now: float) -> None:
        """Act on the events of the parts, and send their datagrams."""
        self._collect_ice_events(now)
        while (event := self.dtls.poll_event()) is not None:
            self._handle_dtls(event, now)
        self._collect_ice_events(now)
        if self.state is not TransportState.CLOSED:
            self._send_from_parts()
            self.update_timeout()

    def update_timeout(self) -> None:
        """Ask the parts for their deadlines again."""
        self._settled = None if self.state is TransportState.CLOSED else self.agent.settled
        if self.state is TransportState.CLOSED:
            deadlines = [self.dtls.poll_timeout() if self.dtls.closed else inf]
        else:
            deadlines = [self.agent.poll_timeout(), self.dtls.poll_timeout()]
            if self.channels is not None:
                deadlines.append(self.channels.poll_timeout())
            if self.srtp is None:
                wait = FIRST_CHECK_TIMEOUT if self.state is TransportState.NEW else SETUP_TIMEOUT
                deadlines.append(self._started + wait)
        self.deadline = min(deadlines)

    def close(self, now: float) -> None:
        """Close with an SCTP ABORT and a close_notify alert, and release every path. Harmless when repeated."""
        if self.state is TransportState.CLOSED:
            return
        if self.channels is not None:
            self.channels.abort(now)
            self._send_from_channels(self.channels)
        self.dtls.close(now)
        self._send_from_parts()
        self._close(TransportCloseReason.LOCAL, "")

    # Output

    def poll_transmit(self) -> Transmit | None:
        """Return the next datagram to send, or None."""
        return self.transmits.popleft() if self.transmits else None

    def poll_event(self) -> TransportEvent | ChannelEvent | None:
        """Return the next event, or None."""
        return self.events.popleft() if self.events else None

    def poll_timeout(self) -> float:
        """Return when `handle_timeout` wants to be called; infinity for never."""
        return self.deadline

    # ICE

    def _report_received(self, source: Path, size: int, now: float) -> None:
        """Report an authenticated datagram to the agent, and act on what it changes."""
        if self.agent.received(source, size, now, authenticated=True):
            self.flush(now)
        else:
            self._settled = self.agent.settled

    def _collect_ice_events(self, now: float) -> None:
        while (event := self.agent.poll_event()) is not None:
            self._handle_ice(event, now)

    def _handle_ice(self, event: ice.IceEvent, now: float) -> None:
        if self.state is TransportState.CLOSED:
            return
        match event:
            case ice.PathOpened():
                return
            case ice.IceFailed(reason):
                self._close(_CLOSED_BY_ICE[reason], "")
                return
            case ice.PathSelected(path):
                self._select(path, now)
            case ice.Disconnected():
                self._advance(TransportStep.PEER_DISCONNECTED)
            case ice.Reconnected():
                self._advance(TransportStep.PEER_RECONNECTED)
        self.events.append(event)
        if isinstance(event, ice.Disconnected):
            self._release_paths()

    def _select(self, path: Path, now: float) -> None:
        if self.srtp is None:
            self._handshake_path = path
        if self._find_path(now) and self.dtls.role is dtls.DtlsRole.CLIENT:
            self.dtls.start(now)

    def _find_path(self, now: float) -> bool:
        """Note that there is a path; return whether it is the first."""
        if self.state is not TransportState.NEW:
            return False
        self._advance(TransportStep.PATH_FOUND)
        self._first_path_at = now
        return True

    def _release_paths(self) -> None:
        self.events.extend(ice.PathReleased(path) for path in self.agent.paths)

    # DTLS, and what it carries

    def _receive_dtls(self, data: bytes, source: Path, now: float) -> None:
        if source not in self.agent.paths:
            self.counters.unknown_protocol += 1
            return
        self._find_path(now)
        self.agent.received(source, len(data), now, authenticated=False)
        self._handshake_path = source
        self.dtls.receive_datagram(data, source, now)
        self.flush(now)

    def _handle_dtls(self, event: dtls.DtlsEvent, now: float) -> None:
        if self.state is TransportState.CLOSED:
            return
        match event:
            case dtls.ApplicationDataReceived(data):
                self._receive_application_data(data, now)
            case dtls.HandshakeCompleted():
                assert event.srtp_profile is not None  # we offered some, and require one
                self._complete_handshake(event.srtp_profile, now)
            case dtls.DtlsClosed(reason=reason, detail=detail):
                self._send_from_parts()
                self._close(_CLOSED_BY_DTLS[reason], detail)

    def _receive_application_data(self, data: bytes, now: float) -> None:
        if self._handshake_path is not None:
            self.authenticated = True
            self.agent.received(self._handshake_path, 0, now, authenticated=True)
        if self.channels is None:
            self.counters.unknown_protocol += 1
            return
        self.channels.receive_datagram(data, None, now)
        self._collect_channel_events(self.channels)

    def _complete_handshake(self, profile: SrtpProfile, now: float) -> None:
        material = self.dtls.export_keying_material(EXPORTER_LABEL, keying_material_length(profile))
        self.srtp = SrtpSession(profile, material, is_client=self.dtls.role is dtls.DtlsRole.CLIENT)
        self._advance(TransportStep.HANDSHAKE_COMPLETED)
        if self._handshake_path is not None and self._handshake_sent_to == {self._handshake_path}:
            # Only a peer that received our flights can complete the handshake, and they were sent to this path alone.
            # Otherwise a caller could receive them at home and send its last flight from a victim's address.
            self.authenticated = True
            self.agent.validate(self._handshake_path, now)
        if self.channels is not None:
            self.channels.start(now, self.dtls.round_trip)
        self.events.append(Connected(profile, self._first_path_at - self._started, now - self._started))
        while self._early:  # which proves nothing about the paths as they are now
            data, arrived = self._early.popleft()
            try:
                self.events.append(RtpReceived(self.srtp.unprotect_rtp(data), arrived))
            except DecodeError:
                self.counters.srtp_failed += 1

    def _collect_channel_events(self, channels: ChannelCore[ChannelEvent]) -> None:
        while (event := channels.poll_event()) is not None:
            self.events.append(event)

    # SRTP

    def _hold_early(self, data: bytes, source: Path, now: float) -> None:
        """Hold SRTP until the keys are there, if it comes by a path of the peer."""
        if source not in self.agent.paths:
            self.counters.srtp_early += 1
            return
        if len(self._early) == MAX_EARLY_PACKETS:
            self.counters.srtp_early += 1
        self._early.append((data, now))

    def _receive_srtcp(self, data: bytes, source: Path, now: float) -> None:
        if self.srtp is None:
            self.counters.srtp_early += 1
            return
        try:
            packet = self.srtp.unprotect_rtcp(data)
        except DecodeError:
            self.counters.srtp_failed += 1
            return
        self.authenticated = True
        self._report_received(source, len(data), now)
        self.events.append(RtcpReceived(packet))

    # Output of the parts

    def _send_from_parts(self) -> None:
        if self.channels is not None:
            self._send_from_channels(self.channels)
        while (transmit := self.agent.poll_transmit()) is not None:
            self.transmits.append(transmit)
        while (transmit := self.dtls.poll_transmit()) is not None:
            self.send_protected(transmit.data)

    def _send_from_channels(self, channels: ChannelCore[ChannelEvent]) -> None:
        while (packet := channels.poll_transmit()) is not None:
            if self.state is TransportState.CONNECTED and self.dtls.connected:
                self.dtls.send_application_data(packet.data)

    # States

    def _advance(self, step: TransportStep) -> None:
        self.state = TRANSITIONS[self.state, step]

    def _check_setup(self, now: float) -> None:
        if self.state is TransportState.NEW and now >= self._started + FIRST_CHECK_TIMEOUT:
            if self.agent.rejected_checks:
                self._close(TransportCloseReason.BAD_CREDENTIALS, "every check had a wrong MESSAGE-INTEGRITY")
            else:
                self._close(TransportCloseReason.NO_CHECK, "no check arrived; is UDP to the advertised address open?")
        elif self.srtp is None and now >= self._started + SETUP_TIMEOUT:
            self._close(TransportCloseReason.HANDSHAKE_TIMEOUT, "the DTLS handshake did not finish")

    def _close(self, reason: TransportCloseReason, detail: str) -> None:
        if self.state is TransportState.CLOSED:
            return
        self._advance(TransportStep.CLOSED)
        self._release_paths()
        self.events.append(Closed(reason, detail))
        self.update_timeout()
