"""RTP (RFC 3550) with header extensions (RFC 8285)."""

from antiphon_transceiver.rtp.extensions import decode_extensions, encode_extensions
from antiphon_transceiver.rtp.fields import ExtensionWriter, FieldReader
from antiphon_transceiver.rtp.nack import NackGenerator, RetransmissionBuffer
from antiphon_transceiver.rtp.options import RtpOptions
from antiphon_transceiver.rtp.packet import RtpPacket, decode_rtp
from antiphon_transceiver.rtp.receiver import RtpReceiver, feedback_statistics
from antiphon_transceiver.rtp.red import OtherPayloadError, RedEncoder, RedundantBlock, decode_red
from antiphon_transceiver.rtp.sender import RtpSender
from antiphon_transceiver.rtp.statistics import NTP_EPOCH, ReceiverStatistics, SenderStatistics

__all__ = [
    "NTP_EPOCH",
    "ExtensionWriter",
    "FieldReader",
    "NackGenerator",
    "OtherPayloadError",
    "ReceiverStatistics",
    "RedEncoder",
    "RedundantBlock",
    "RetransmissionBuffer",
    "RtpOptions",
    "RtpPacket",
    "RtpReceiver",
    "RtpSender",
    "SenderStatistics",
    "decode_extensions",
    "decode_red",
    "decode_rtp",
    "encode_extensions",
    "feedback_statistics",
]
