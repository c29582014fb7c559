"""What an association and its data channels tell."""

from enum import Enum

import msgspec

from antiphon_transceiver.sctp.reassembly import StreamMessage


class AssociationCloseReason(Enum):
    """Why an association is over; the value is fit for a log."""

    PEER_CLOSED = "the peer closed"
    LOCAL_CLOSE = "closed by us"
    ABORT_RECEIVED = "the peer aborted"
    ABORT_SENT = "the peer broke the protocol"
    TIMEOUT = "the peer stopped answering"


class ChannelOpened(msgspec.Struct, frozen=True):
    """A data channel can be used both ways. At most one of the limits is set; `max_lifetime` is in seconds."""

    id: int
    label: str
    protocol: str
    ordered: bool
    max_retransmits: int | None
    max_lifetime: float | None
    by_peer: bool


class MessageReceived(msgspec.Struct, frozen=True):
    """`data` is text or bytes, as the peer sent it. It counts as buffered until this event is polled."""

    id: int
    data: str | bytes


class BufferedAmountLow(msgspec.Struct, frozen=True):
    """Of a channel that had more, no more than `LOW_BUFFERED` bytes wait to be acknowledged."""

    id: int


class ChannelClosed(msgspec.Struct, frozen=True):
    """A data channel is closed, by either side; its id may be used again."""

    id: int


class AssociationClosed(msgspec.Struct, frozen=True):
    """The last event: the association is over, and every channel with it."""

    reason: AssociationCloseReason
    detail: str


class Established(msgspec.Struct, frozen=True):
    """Both sides know each other: data may flow."""


class StreamsReset(msgspec.Struct, frozen=True):
    """Streams begin anew: those we send on, or those we receive on."""

    outgoing: tuple[int, ...]
    incoming: tuple[int, ...]


DataChannelEvent = ChannelOpened | MessageReceived | BufferedAmountLow | ChannelClosed | AssociationClosed

AssociationEvent = Established | StreamMessage | StreamsReset | AssociationClosed
