"""The role and the events of a DTLS endpoint."""

from enum import Enum, IntEnum

import msgspec

from antiphon_transceiver.dtls.suites import CipherSuite
from antiphon_transceiver.srtp.profiles import SrtpProfile


class DtlsRole(Enum):
    """The role in the handshake. The client sends the ClientHello: it is the `active` side in SDP (RFC 5763 §5)."""

    CLIENT = "client"
    SERVER = "server"


class DtlsVersion(IntEnum):
    """The negotiated version, as records encode it (RFC 6347 §4.1)."""

    DTLS_1_2 = 0xFEFD


class DtlsCloseReason(Enum):
    """Why an endpoint is closed. The value is a phrase for logs."""

    CLOSE_NOTIFY = "the peer closed"
    LOCAL_CLOSE = "closed by us"
    ALERT_RECEIVED = "the peer sent a fatal alert"
    ALERT_SENT = "the peer broke the protocol"
    CERTIFICATE_MISMATCH = "the peer's certificate is not the announced one"
    TIMEOUT = "the handshake took too long"


class HandshakeCompleted(msgspec.Struct, frozen=True):
    """The handshake is complete: both certificates match their SDP, and keys can be exported.

    `srtp_profile` is None only if no profile was configured.
    """

    version: DtlsVersion
    cipher_suite: CipherSuite
    srtp_profile: SrtpProfile | None


class ApplicationDataReceived(msgspec.Struct, frozen=True):
    """The application data of one record was received. It is authenticated, and of a completed handshake."""

    data: bytes


class DtlsClosed(msgspec.Struct, frozen=True):
    """The endpoint was closed; no event follows. `alert` is the number of the alert sent or received, if there was one.

    `detail` is a phrase for logs, or empty.
    """

    reason: DtlsCloseReason
    alert: int | None
    detail: str


DtlsEvent = HandshakeCompleted | ApplicationDataReceived | DtlsClosed
