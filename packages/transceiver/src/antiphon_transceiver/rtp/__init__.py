"""RTP (RFC 3550) with header extensions (RFC 8285)."""

from antiphon_transceiver.rtp.extensions import decode_extensions, encode_extensions
from antiphon_transceiver.rtp.packet import RtpPacket, decode_rtp
from antiphon_transceiver.rtp.sender import RtpSender

__all__ = ["RtpPacket", "RtpSender", "decode_extensions", "decode_rtp", "encode_extensions"]
