"""RTCP (RFC 3550 §6, RFC 4585): the wire formats of its packets, and the schedule of reports."""

from antiphon_transceiver.rtcp.feedback import GenericNack, TransportFeedback
from antiphon_transceiver.rtcp.packets import (
    Bye,
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

__all__ = [
    "Bye",
    "GenericNack",
    "ReceiverReport",
    "ReportBlock",
    "Reporter",
    "RtcpPacket",
    "SdesChunk",
    "SdesItem",
    "SenderReport",
    "SourceDescription",
    "TransportFeedback",
    "decode_rtcp",
    "encode_rtcp",
]
