"""RTCP (RFC 3550 §6, RFC 4585): the packets, what is counted for them, and when a report or feedback is due."""

from antiphon_transceiver.rtcp.feedback import GenericNack, TransportFeedback
from antiphon_transceiver.rtcp.packet_feedback import PacketFeedback
from antiphon_transceiver.rtcp.packets import (
    Goodbye,
    ReceiverReport,
    ReportBlock,
    RtcpPacket,
    SdesChunk,
    SdesItem,
    SenderReport,
    SourceDescription,
    decode_rtcp,
    encode_rtcp,
)
from antiphon_transceiver.rtcp.reporter import Reporter
from antiphon_transceiver.rtcp.statistics import NTP_EPOCH, ReceiverStatistics, SenderStatistics

__all__ = [
    "NTP_EPOCH",
    "GenericNack",
    "Goodbye",
    "PacketFeedback",
    "ReceiverReport",
    "ReceiverStatistics",
    "ReportBlock",
    "Reporter",
    "RtcpPacket",
    "SdesChunk",
    "SdesItem",
    "SenderReport",
    "SenderStatistics",
    "SourceDescription",
    "TransportFeedback",
    "decode_rtcp",
    "encode_rtcp",
]
