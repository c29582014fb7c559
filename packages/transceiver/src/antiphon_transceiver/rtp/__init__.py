"""RTP (RFC 3550) with header extensions (RFC 8285)."""

from antiphon_transceiver.rtp.extensions import decode_extensions, encode_extensions
from antiphon_transceiver.rtp.fields import ExtensionWriter, FieldReader
from antiphon_transceiver.rtp.options import RtpOptions
from antiphon_transceiver.rtp.packet import RtpPacket, decode_rtp
from antiphon_transceiver.rtp.retransmission import MissingPackets, SentPackets
from antiphon_transceiver.rtp.sender import RtpSender

__all__ = [
    "ExtensionWriter",
    "FieldReader",
    "MissingPackets",
    "RtpOptions",
    "RtpPacket",
    "RtpSender",
    "SentPackets",
    "decode_extensions",
    "decode_rtp",
    "encode_extensions",
]
