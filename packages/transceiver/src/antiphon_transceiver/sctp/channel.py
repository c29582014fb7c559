"""One data channel as both ends see it (RFC 8831 §6)."""

from enum import Enum, auto

import msgspec

from antiphon_transceiver.sctp.events import ChannelOpened


class ChannelState(Enum):
    CONNECTING = auto()
    """We sent OPEN; messages may follow it already, but in order (RFC 8832 §6)."""
    OPEN = auto()
    CLOSING = auto()
    """One direction is reset or about to be; the channel is closed once both are (RFC 8831 §6.7)."""


class Channel(msgspec.Struct, eq=False):
    """`max_lifetime` is in seconds; at most one of the limits is set."""

    id: int
    label: str
    protocol: str
    ordered: bool
    max_retransmits: int | None
    max_lifetime: float | None
    by_peer: bool
    state: ChannelState
    outgoing_reset: bool = False
    incoming_reset: bool = False

    def opened(self) -> ChannelOpened:
        return ChannelOpened(
            self.id,
            self.label,
            self.protocol,
            self.ordered,
            self.max_retransmits,
            self.max_lifetime,
            self.by_peer,
        )
