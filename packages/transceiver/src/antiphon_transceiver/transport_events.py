"""What a `PeerTransport` reports."""

from enum import Enum

import msgspec

from antiphon_transceiver.ice import (
    CheckAccepted,
    Disconnected,
    PathReleased,
    PathSelected,
    PathValidated,
    Reconnected,
)
from antiphon_transceiver.srtp import SrtpProfile


class Connected(msgspec.Struct, frozen=True):
    """The handshake is complete and media may flow. Times are seconds since the transport was made."""

    srtp_profile: SrtpProfile
    first_check_after: float
    handshake_after: float


class RtpReceived(msgspec.Struct, frozen=True, gc=False):
    """One authenticated RTP packet, decrypted. It arrived at `arrived`, maybe before its keys did."""

    packet: bytes
    arrived: float


class RtcpReceived(msgspec.Struct, frozen=True, gc=False):
    """One authenticated RTCP packet, decrypted; compound or of reduced size (RFC 5506)."""

    packet: bytes


class TransportCloseReason(Enum):
    """Why a transport is closed."""

    LOCAL = "closed by us"
    CLOSE_NOTIFY = "the peer closed"
    DTLS_ALERT = "DTLS failed"
    CERTIFICATE_MISMATCH = "the peer's certificate is not the announced one"
    HANDSHAKE_TIMEOUT = "the handshake took too long"
    NO_CHECK = "no check arrived"
    BAD_CREDENTIALS = "no check was authentic"
    NO_ANSWER = "no candidate answered"
    CONSENT_EXPIRED = "consent expired"
    ROLE_CONFLICT = "the peer insists on the controlling role"


class Closed(msgspec.Struct, frozen=True):
    """The last event of a transport. Every path was released before it."""

    reason: TransportCloseReason
    detail: str


TransportEvent = (
    CheckAccepted
    | PathValidated
    | PathSelected
    | PathReleased
    | Connected
    | RtpReceived
    | RtcpReceived
    | Disconnected
    | Reconnected
    | Closed
)
"""The events of the data channels come on top."""
