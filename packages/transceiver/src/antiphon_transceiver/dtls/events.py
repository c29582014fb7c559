"""What a DTLS endpoint is told at first and tells later."""

from enum import Enum, IntEnum

import msgspec

from antiphon_transceiver.dtls.suites import CipherSuite
from antiphon_transceiver.srtp.profiles import SrtpProfile


class DtlsRole(Enum):
    """Who sends the ClientHello: in SDP the side that is `active` (RFC 5763 §5)."""

    CLIENT = "client"
    SERVER = "server"


class DtlsVersion(IntEnum):
    DTLS_1_2 = 0xFEFD


class DtlsCloseReason(Enum):
    """Why an endpoint is closed; the value is fit for a log."""

    CLOSE_NOTIFY = "the peer closed"
    LOCAL_CLOSE = "closed by us"
    ALERT_RECEIVED = "the peer sent a fatal alert"
    ALERT_SENT = "the peer broke the protocol"
    CERTIFICATE_MISMATCH = "the peer's certificate is not the announced one"
    TIMEOUT = "the handshake took too long"


class HandshakeCompleted(msgspec.Struct, frozen=True):
    """Both sides proved to be who their SDP announced; keys can be exported. `srtp_profile` is None only if no profile
    was configured."""

    version: DtlsVersion
    cipher_suite: CipherSuite
    srtp_profile: SrtpProfile | None


class ApplicationDataReceived(msgspec.Struct, frozen=True):
    data: bytes


class DtlsClosed(msgspec.Struct, frozen=True):
    """The last event of an endpoint. `alert` is the number of the alert sent or received, if there was one."""

    reason: DtlsCloseReason
    alert: int | None
    detail: str


DtlsEvent = HandshakeCompleted | ApplicationDataReceived | DtlsClosed
