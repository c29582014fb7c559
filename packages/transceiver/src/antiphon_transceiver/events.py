"""What a call's session tells."""

import msgspec

from antiphon_common.core import Path
from antiphon_transceiver.audio import UplinkFrame
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.srtp import SrtpProfile


class PathOpened(msgspec.Struct, frozen=True):
    """The first authenticated check came by this path."""

    path: Path


class PathConfirmed(msgspec.Struct, frozen=True):
    """The peer proved to be reachable by this path. Repeated with each answer to a check on it."""

    path: Path


class PathReleased(msgspec.Struct, frozen=True):
    """This call has no further claim on the path."""

    path: Path


class Connected(msgspec.Struct, frozen=True):
    """The handshake is done and media may flow. Times are seconds since the call was made."""

    srtp_profile: SrtpProfile
    first_check_after: float
    handshake_after: float


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


class Disconnected(msgspec.Struct, frozen=True):
    """The peer has been silent for too long; nothing is sent until it is heard again."""


class Reconnected(msgspec.Struct, frozen=True):
    """A disconnected peer was heard again."""


class Ended(msgspec.Struct, frozen=True):
    """The last event of a session."""

    reason: EndReason
    detail: str


Event = (
    PathOpened
    | PathConfirmed
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
