"""The events of an association and of its data channels."""

from enum import Enum

import msgspec

from antiphon_transceiver.sctp.reassembly import StreamMessage


class AssociationCloseReason(Enum):
    """Why an association ended. The value is a phrase for logs."""

    PEER_CLOSED = "the peer closed"
    LOCAL_CLOSE = "closed by us"
    ABORT_RECEIVED = "the peer aborted"
    ABORT_SENT = "the peer broke the protocol"
    TIMEOUT = "the peer stopped answering"


class ChannelOpened(msgspec.Struct, frozen=True):
    """A data channel was opened. At most one of the limits is set; `max_lifetime` is in seconds."""

    id: int
    label: str
    protocol: str
    ordered: bool
    max_retransmits: int | None
    max_lifetime: float | None
    by_peer: bool


class MessageReceived(msgspec.Struct, frozen=True):
    """A message was received on a channel. `data` occupies a_rwnd until the event is polled."""

    id: int
    data: str | bytes


class BufferedAmountLow(msgspec.Struct, frozen=True):
    """The unacknowledged bytes of a channel fell to `LOW_BUFFERED` or less: more may be queued."""

    id: int


class ChannelClosed(msgspec.Struct, frozen=True):
    """A data channel was closed by either side. Its id may be used again."""

    id: int


class AssociationClosed(msgspec.Struct, frozen=True):
    """The association ended, and every channel with it; no event follows. `detail` is for logs, or empty."""

    reason: AssociationCloseReason
    detail: str


class Established(msgspec.Struct, frozen=True):
    """The association was established: data can be sent."""


class StreamsReset(msgspec.Struct, frozen=True):
    """Streams were reset (RFC 6525): outgoing ones, incoming ones, or both."""

    outgoing: tuple[int, ...]
    incoming: tuple[int, ...]


DataChannelEvent = ChannelOpened | MessageReceived | BufferedAmountLow | ChannelClosed | AssociationClosed

AssociationEvent = Established | StreamMessage | StreamsReset | AssociationClosed
