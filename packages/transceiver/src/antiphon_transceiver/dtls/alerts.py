"""Alerts (RFC 5246 §7.2), the errors that send one, and the retransmission of the alert that closes."""

from enum import IntEnum
from math import inf

from antiphon_common.errors import DecodeError, RemoteProtocolError


class AlertLevel(IntEnum):
    """The level of an alert (RFC 5246 §7.2). A fatal alert closes the association."""

    WARNING = 1
    FATAL = 2


class AlertDescription(IntEnum):
    """The descriptions of alerts that we send (RFC 5246 §7.2). A peer may send others."""

    CLOSE_NOTIFY = 0
    UNEXPECTED_MESSAGE = 10
    HANDSHAKE_FAILURE = 40
    BAD_CERTIFICATE = 42
    UNSUPPORTED_CERTIFICATE = 43
    ILLEGAL_PARAMETER = 47
    DECODE_ERROR = 50
    DECRYPT_ERROR = 51
    PROTOCOL_VERSION = 70
    INTERNAL_ERROR = 80
    NO_RENEGOTIATION = 100
    UNSUPPORTED_EXTENSION = 110


class HandshakeError(RemoteProtocolError):
    """The peer's handshake cannot be accepted; `alert` is the alert to send.

    Handlers of handshake messages raise it, and `DtlsEndpoint` turns it into a pending failure.
    """

    def __init__(self, alert: AlertDescription, detail: str) -> None:
        super().__init__(detail)
        self.alert = alert


class CertificateMismatchError(HandshakeError):
    """The peer's certificate matches no fingerprint of its SDP (RFC 5763 §5).

    It is reported as `DtlsCloseReason.CERTIFICATE_MISMATCH`.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(AlertDescription.BAD_CERTIFICATE, detail)


def encode_alert(level: AlertLevel, description: AlertDescription) -> bytes:
    """Return the two bytes of an alert."""
    return bytes((level, description))


def decode_alert(payload: bytes) -> tuple[int, int]:
    """Return level and description, which may be none of `AlertLevel` and `AlertDescription`.

    Raises:
        DecodeError: The payload has not two bytes.
    """
    if len(payload) != 2:
        raise DecodeError(f"an alert of {len(payload)} bytes")
    return payload[0], payload[1]


CLOSE_ALERT_INTERVAL = 0.1
CLOSE_ALERT_RETRANSMISSIONS = 3
"""Seconds to the first retransmission, doubled with each, and their number. The last one leaves after 0.7 s, so the
peer receives the alert in spite of an outage of half a second."""


class CloseAlert:
    """The alert that closed an association, and when to retransmit it.

    Alerts are not acknowledged (RFC 6347 §4.2.7), and a peer that missed one would wait for us. Send `level` and
    `description` again at each `deadline`, until the peer answers with an alert of its own.
    """

    def __init__(self, level: AlertLevel, description: AlertDescription, now: float) -> None:
        self.level = level
        self.description = description
        self.deadline = now + CLOSE_ALERT_INTERVAL
        self._retransmissions = 0

    def retransmitted(self, now: float) -> None:
        """Double the interval to the next retransmission, or stop after the last."""
        self._retransmissions += 1
        again = self._retransmissions < CLOSE_ALERT_RETRANSMISSIONS
        self.deadline = now + CLOSE_ALERT_INTERVAL * 2**self._retransmissions if again else inf

    def answered(self) -> None:
        """Stop, since the peer sent an alert too."""
        self.deadline = inf
