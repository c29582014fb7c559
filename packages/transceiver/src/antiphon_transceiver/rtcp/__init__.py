"""RTCP (RFC 3550 §6): the packets, what is counted for them, and when a report is due."""

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
from antiphon_transceiver.rtcp.statistics import ReceiverStatistics, SenderStatistics

__all__ = [
    "Goodbye",
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
    "decode_rtcp",
    "encode_rtcp",
]
