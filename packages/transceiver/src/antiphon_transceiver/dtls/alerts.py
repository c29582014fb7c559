"""Alerts (RFC 5246 §7.2), and the error that becomes one."""

from enum import IntEnum

from antiphon_common.errors import DecodeError, RemoteProtocolError


class AlertLevel(IntEnum):
    WARNING = 1
    FATAL = 2


class AlertDescription(IntEnum):
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
    """The peer's handshake cannot be accepted; `alert` is what to tell it."""

    def __init__(self, alert: AlertDescription, detail: str) -> None:
        super().__init__(detail)
        self.alert = alert


class CertificateMismatchError(HandshakeError):
    """The peer's certificate is not the one its SDP announced."""

    def __init__(self, detail: str) -> None:
        super().__init__(AlertDescription.BAD_CERTIFICATE, detail)


def encode_alert(level: AlertLevel, description: AlertDescription) -> bytes:
    return bytes((level, description))


def decode_alert(payload: bytes) -> tuple[int, int]:
    """Return level and description; the description may be one this file does not name."""
    if len(payload) != 2:
        raise DecodeError(f"an alert of {len(payload)} bytes")
    return payload[0], payload[1]


CLOSE_ALERT_INTERVAL = 0.1
CLOSE_ALERT_RETRANSMISSIONS = 3
"""Seconds to the first repetition, doubled with each: an outage of half a second hides nothing from the peer, and
after 0.7 s everything has been said."""


class CloseAlert:
    """When to say the alert that ended an association once more.

    Nobody acknowledges an alert (RFC 6347 §4.2.7), and to a peer that missed it we would look as if we had vanished. An
    alert of its own tells that it has understood.
    """

    def __init__(self, level: AlertLevel, description: AlertDescription, now: float) -> None:
        self.level = level
        self.description = description
        self.deadline: float | None = now + CLOSE_ALERT_INTERVAL
        self._repeats = 0

    def retransmitted(self, now: float) -> None:
        """Wait twice as long for the next time, or end with this one."""
        self._repeats += 1
        self.deadline = (
            now + CLOSE_ALERT_INTERVAL * 2**self._repeats if self._repeats < CLOSE_ALERT_RETRANSMISSIONS else None
        )

    def answered(self) -> None:
        """The peer sent an alert: there is nothing more to say."""
        self.deadline = None
