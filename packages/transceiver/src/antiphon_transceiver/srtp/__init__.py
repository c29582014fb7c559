"""SRTP and SRTCP (RFC 3711, RFC 7714), keyed by DTLS (RFC 5764)."""

from antiphon_transceiver.srtp.errors import SrtpError
from antiphon_transceiver.srtp.keys import EXPORTER_LABEL, keying_material_length
from antiphon_transceiver.srtp.profiles import SrtpProfile
from antiphon_transceiver.srtp.session import SrtpCounters, SrtpSession

__all__ = ["EXPORTER_LABEL", "SrtpCounters", "SrtpError", "SrtpProfile", "SrtpSession", "keying_material_length"]
