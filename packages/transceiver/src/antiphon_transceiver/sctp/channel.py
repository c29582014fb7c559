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


class DataChannel(msgspec.Struct, eq=False):
    """`opening` says what the opener asked for."""

    opening: ChannelOpened
    state: ChannelState
    outgoing_reset: bool = False
    incoming_reset: bool = False

    @property
    def id(self) -> int:
        return self.opening.id

    @classmethod
    def of_peer(cls, opening: ChannelOpened) -> "DataChannel":
        """Return an open channel of the peer. Its label and protocol, up to 4 KiB, are not kept."""
        return cls(msgspec.structs.replace(opening, label="", protocol=""), ChannelState.OPEN)


class DataChannelCounters:
    """What was dropped of the peer's."""

    def __init__(self) -> None:
        self.malformed = 0
        self.unexpected = 0
        """Messages of channels that are not open, even if they are delivered once the channel is."""
        self.refused = 0
        """Channels that could not be opened: too many, or a malformed OPEN."""
