"""SCTP over DTLS (RFC 9260, RFC 8261) and WebRTC data channels (RFC 8831, RFC 8832), as a protocol core."""

from antiphon_transceiver.sctp.association import Association, BufferFullError
from antiphon_transceiver.sctp.channel import DataChannelCounters
from antiphon_transceiver.sctp.counters import AssociationCounters
from antiphon_transceiver.sctp.endpoint import DEFAULT_MTU, DataChannelEndpoint
from antiphon_transceiver.sctp.events import (
    AssociationClosed,
    AssociationCloseReason,
    BufferedAmountLow,
    ChannelClosed,
    ChannelOpened,
    DataChannelEvent,
    MessageReceived,
)
from antiphon_transceiver.sctp.reassembly import MAX_MESSAGE_SIZE

__all__ = [
    "DEFAULT_MTU",
    "MAX_MESSAGE_SIZE",
    "Association",
    "AssociationCloseReason",
    "AssociationClosed",
    "AssociationCounters",
    "BufferFullError",
    "BufferedAmountLow",
    "ChannelClosed",
    "ChannelOpened",
    "DataChannelCounters",
    "DataChannelEndpoint",
    "DataChannelEvent",
    "MessageReceived",
]
