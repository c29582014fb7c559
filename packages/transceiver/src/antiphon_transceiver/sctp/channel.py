"""The state of one data channel (RFC 8831 §6)."""

from enum import Enum, auto

import msgspec

from antiphon_transceiver.sctp.events import ChannelOpened


class ChannelState(Enum):
    """The state of a data channel. `DataChannelEndpoint` changes it, in this order."""

    CONNECTING = auto()
    """We sent OPEN. Messages may follow at once, but only ordered (RFC 8832 §6)."""
    OPEN = auto()
    CLOSING = auto()
    """One direction is reset, or will be. The channel is closed once both are (RFC 8831 §6.7)."""


class DataChannel(msgspec.Struct, eq=False):
    """A data channel: the parameters of its OPEN, its state, and which directions have been reset.

    `DataChannelEndpoint` keeps one for each channel that is not closed.
    """

    opening: ChannelOpened
    state: ChannelState
    outgoing_reset: bool = False
    incoming_reset: bool = False

    @property
    def id(self) -> int:
        """The stream of the channel, the same in both directions."""
        return self.opening.id

    @classmethod
    def of_peer(cls, opening: ChannelOpened) -> "DataChannel":
        """Return an open channel of the peer. Its label and protocol, up to 4 KiB, are discarded."""
        return cls(msgspec.structs.replace(opening, label="", protocol=""), ChannelState.OPEN)


class DataChannelCounters:
    """Messages and channels of the peer that were dropped, by reason. `DataChannelEndpoint.counters` holds one."""

    def __init__(self) -> None:
        self.malformed = 0
        self.unexpected = 0
        """Messages of channels that are not open, also if they are delivered once the channel is."""
        self.refused = 0
        """Channels that could not be opened: too many, or a malformed OPEN."""
