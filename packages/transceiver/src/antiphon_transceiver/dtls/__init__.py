"""DTLS 1.2 (RFC 6347) with DTLS-SRTP (RFC 5764), in both roles, as a protocol core."""

from antiphon_transceiver.dtls.alerts import AlertDescription
from antiphon_transceiver.dtls.certificate import Certificate
from antiphon_transceiver.dtls.counters import DtlsCounters
from antiphon_transceiver.dtls.endpoint import DtlsEndpoint
from antiphon_transceiver.dtls.events import (
    ApplicationDataReceived,
    DtlsClosed,
    DtlsCloseReason,
    DtlsEvent,
    DtlsRole,
    DtlsVersion,
    HandshakeCompleted,
)
from antiphon_transceiver.dtls.suites import CipherSuite

__all__ = [
    "AlertDescription",
    "ApplicationDataReceived",
    "Certificate",
    "CipherSuite",
    "DtlsCloseReason",
    "DtlsClosed",
    "DtlsCounters",
    "DtlsEndpoint",
    "DtlsEvent",
    "DtlsRole",
    "DtlsVersion",
    "HandshakeCompleted",
]
