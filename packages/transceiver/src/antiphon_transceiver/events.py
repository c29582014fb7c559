"""Events of a call and of its data channels, in addition to those of its transport."""

import msgspec

from antiphon_transceiver.ice import Disconnected, PathReleased, PathValidated, Reconnected
from antiphon_transceiver.outcome import EndReason
from antiphon_transceiver.transport_events import Connected


class MediaStarted(msgspec.Struct, frozen=True):
    """The caller's first audio arrived, `after` seconds from the offer. `CallMedia` reports it once."""

    after: float


class MediaEnded(msgspec.Struct, frozen=True):
    """The caller ended its stream with BYE (RFC 3550 §6.6). The call goes on, and another stream may follow."""


class MediaMissing(msgspec.Struct, frozen=True):
    """The call connected, but no audio of the caller arrived in time. The call goes on."""


class EventReceived(msgspec.Struct, frozen=True):
    """The caller sent an event of the Realtime API. The call passes it to the backend.

    It is a JSON object, encoded by `antiphon_common.json_objects`.
    """

    event: msgspec.Raw


class MessageRefused(msgspec.Struct, frozen=True):
    """The caller sent a message that is no event and was answered by an error. It costs as much work as an event."""


ChannelEvent = EventReceived | MessageRefused


class Terminated(msgspec.Struct, frozen=True):
    """A call ended. Every path was released before it."""

    reason: EndReason
    detail: str


class Failed(msgspec.Struct, frozen=True):
    """The code of a call raised an exception, which ended the call. It replaces `Terminated`."""

    error: Exception


class Raised(msgspec.Struct, frozen=True):
    """The code of a call raised an exception after the call had ended. It is logged."""

    error: Exception


CallEvent = (
    PathValidated
    | PathReleased
    | Connected
    | MediaStarted
    | MediaMissing
    | MediaEnded
    | Disconnected
    | Reconnected
    | Terminated
    | Failed
    | Raised
)
