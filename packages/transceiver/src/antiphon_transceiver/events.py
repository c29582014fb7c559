"""What a call's session reports, on top of what its transport reports."""

import msgspec

from antiphon_transceiver.audio import UplinkFrame
from antiphon_transceiver.ice import Disconnected, PathReleased, PathValidated, Reconnected
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.transport_events import Connected


class MediaStarted(msgspec.Struct, frozen=True):
    """The caller's first audio arrived."""

    after: float


class MediaEnded(msgspec.Struct, frozen=True):
    """The caller said that its audio ends (RFC 3550 §6.6); the call goes on, and another stream may follow."""


class MediaMissing(msgspec.Struct, frozen=True):
    """The call connected, but no audio of the caller came in time."""


class EventReceived(msgspec.Struct, frozen=True):
    """The caller sent an event of the Realtime API: a JSON object, encoded by `antiphon_common.json_objects`."""

    event: msgspec.Raw


class MessageRefused(msgspec.Struct, frozen=True):
    """The caller sent a message that is no event; looking at it, and answering, took as much work as an event does."""


class Ended(msgspec.Struct, frozen=True):
    """The last event of a session."""

    reason: EndReason
    detail: str


Event = (
    PathValidated
    | PathReleased
    | Connected
    | MediaStarted
    | MediaMissing
    | MediaEnded
    | UplinkFrame
    | EventReceived
    | MessageRefused
    | Disconnected
    | Reconnected
    | Ended
)
"""What happened. `UplinkFrame` is a stretch of the caller's audio in the backend's format."""
