"""The common part of the handshakes of client and server: configuration, transcript, common steps."""

import hmac
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec

from antiphon_common.control import Fingerprint
from antiphon_common.errors import DecodeError
from antiphon_transceiver.dtls.alerts import AlertDescription, CertificateMismatchError, HandshakeError
from antiphon_transceiver.dtls.certificate import Certificate, check_fingerprint, load_public_key
from antiphon_transceiver.dtls.extensions import (
    POINT_FORMAT_UNCOMPRESSED,
    ExtensionType,
    decode_block,
)
from antiphon_transceiver.dtls.flights import ChangeCipherSpec, Flight
from antiphon_transceiver.dtls.messages import CertificateChain, CertificateVerify, HandshakeMessage, HandshakeType
from antiphon_transceiver.dtls.record import RecordProtection
from antiphon_transceiver.dtls.suites import CipherSuite, PeerKey, verify
from antiphon_transceiver.dtls.v12.schedule import KeySchedule
from antiphon_transceiver.dtls.v12.states import HandshakeState, Transitions
from antiphon_transceiver.srtp.profiles import SrtpProfile

Checkpoint = Mapping[str, Any]
"""The attributes of a handshake at one time."""


class HandshakeConfig(msgspec.Struct, frozen=True):
    """The configuration of a handshake. `srtp_profiles` are in order of preference; `random` returns entropy.

    `DtlsEndpoint` makes it from its arguments.
    """

    certificate: Certificate
    peer_fingerprints: tuple[Fingerprint, ...]
    srtp_profiles: tuple[SrtpProfile, ...]
    random: Callable[[int], bytes]


class Handshake(ABC):
    """One side of a handshake, without records and timers.

    Pass the peer's messages to `receive`, in order; it returns our flights. Once `schedule` is set, the keys are known.
    """

    initial: ClassVar[HandshakeState]
    transitions: ClassVar[Transitions]

    def __init__(self, config: HandshakeConfig) -> None:
        self.config = config
        self.state = self.initial
        self.schedule: KeySchedule | None = None
        self.cipher_suite: CipherSuite | None = None
        self.srtp_profile: SrtpProfile | None = None
        self.client_random = b""
        self.server_random = b""
        self._peer_key: PeerKey | None = None
        self._transcript: list[bytes] = []
        self._next_sequence = 0
        self._flight: list[HandshakeMessage | ChangeCipherSpec] = []
        self._handlers = self._make_handlers()

    @abstractmethod
    def _make_handlers(self) -> Mapping[int, Callable[[bytes], None]]:
        """Return the handler of the body of each message in `transitions`."""

    @abstractmethod
    def protections(self) -> tuple[RecordProtection, RecordProtection]:
        """Return the record protection that we write with and the one that we read with. `schedule` must be set."""

    @property
    def connected(self) -> bool:
        """Whether the handshake is complete."""
        return self.state is HandshakeState.CONNECTED

    def is_sent_by_peer(self, message_type: int) -> bool:
        """Return True if the peer's role sends messages of this type.

        Any other message has a spoofed source, and must not end the handshake (RFC 6347 §4.1.2.7).
        """
        return message_type in self._handlers

    def checkpoint(self) -> Checkpoint:
        """Return the present state, for `restore`."""
        return _copy(vars(self))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Return to the state of a checkpoint. The messages received since then have no effect."""
        vars(self).clear()
        vars(self).update(_copy(checkpoint))

    def receive(self, message: HandshakeMessage) -> Flight:
        """Handle the peer's next message. Return our next flight, or nothing if the peer's flight goes on.

        Raises:
            HandshakeError: The message cannot be accepted.
            DecodeError: The message is malformed.
        """
        following = self.transitions.get((self.state, message.type))
        if following is None:
            raise HandshakeError(
                AlertDescription.UNEXPECTED_MESSAGE, f"handshake message {message.type} in state {self.state.name}"
            )
        self._transcript.append(message.encode())
        self._handlers[message.type](message.body)
        self.state = following
        if self.connected:
            self._transcript.clear()
        return self._take_flight()

    # What both sides send.

    def _send(self, message_type: HandshakeType, body: bytes) -> None:
        message = HandshakeMessage(message_type, self._next_sequence, body)
        self._next_sequence += 1
        self._transcript.append(message.encode())
        self._flight.append(message)

    def _send_certificate(self) -> None:
        self._send(HandshakeType.CERTIFICATE, CertificateChain((self.config.certificate.der,)).encode())

    def _send_finished(self, label: bytes) -> None:
        self._flight.append(ChangeCipherSpec())
        self._send(HandshakeType.FINISHED, self._agreed_schedule.verify_data(label, self.transcript))

    def _take_flight(self) -> Flight:
        flight, self._flight = self._flight, []
        return flight

    # What both sides receive.

    def _receive_certificate(self, body: bytes) -> None:
        chain = CertificateChain.decode(body).certificates
        if not chain:
            raise CertificateMismatchError("the peer sent no certificate")
        check_fingerprint(chain[0], self.config.peer_fingerprints)
        self._peer_key = load_public_key(chain[0])

    def _check_signature(self, signed: CertificateVerify, data: bytes) -> None:
        if self._peer_key is None:
            raise AssertionError("a signature before its certificate")
        verify(signed.scheme, self._peer_key, signed.signature, data)

    def _check_finished(self, label: bytes, body: bytes) -> None:
        expected = self._agreed_schedule.verify_data(label, self._transcript_before_last)
        if not hmac.compare_digest(body, expected):
            raise HandshakeError(AlertDescription.DECRYPT_ERROR, "verify_data does not match our transcript")

    # Extensions that both hellos carry.

    def _check_common_extensions(self, extensions: Mapping[int, bytes]) -> None:
        if extensions.get(ExtensionType.EXTENDED_MASTER_SECRET) is None:
            raise HandshakeError(AlertDescription.HANDSHAKE_FAILURE, "the peer does not support extended_master_secret")
        if extensions[ExtensionType.EXTENDED_MASTER_SECRET]:
            raise DecodeError("extended_master_secret is not empty")
        # No handshake is renegotiated, so there is no earlier one to refer to (RFC 5746 §3.4, §3.6).
        if decode_block(extensions.get(ExtensionType.RENEGOTIATION_INFO, b"\0")):
            raise HandshakeError(AlertDescription.HANDSHAKE_FAILURE, "renegotiation_info is not empty")
        point_formats = extensions.get(ExtensionType.EC_POINT_FORMATS)
        if point_formats is not None and POINT_FORMAT_UNCOMPRESSED not in decode_block(point_formats):
            raise HandshakeError(AlertDescription.ILLEGAL_PARAMETER, "the peer does not support uncompressed points")

    # Secrets.

    def _agree(self, shared_secret: bytes) -> None:
        """Derive the key schedule; the transcript must end with ClientKeyExchange (RFC 7627 §3)."""
        if self.cipher_suite is None:
            raise AssertionError("keys before a cipher suite")
        self.schedule = KeySchedule(
            self.cipher_suite, shared_secret, self.transcript, self.client_random, self.server_random
        )

    @property
    def _agreed_schedule(self) -> KeySchedule:
        if self.schedule is None:
            raise AssertionError("Finished before the keys")
        return self.schedule

    @property
    def transcript(self) -> bytes:
        """The handshake messages of both sides so far (RFC 6347 §4.2.6)."""
        return b"".join(self._transcript)

    @property
    def _transcript_before_last(self) -> bytes:
        """The transcript without the message being received, which authenticates the messages before it."""
        return b"".join(self._transcript[:-1])


def _copy(attributes: Checkpoint) -> dict[str, Any]:
    """Return a copy. Only lists are copied, since a handshake changes nothing else in place."""
    return {name: value.copy() if isinstance(value, list) else value for name, value in attributes.items()}
