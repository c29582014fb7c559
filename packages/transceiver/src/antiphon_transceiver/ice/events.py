"""What an ICE agent reports, in either role."""

from enum import StrEnum

import msgspec

from antiphon_common.core import Path


class PathOpened(msgspec.Struct, frozen=True):
    """The first authenticated check came by this path."""

    path: Path


class CheckAccepted(msgspec.Struct, frozen=True):
    """An authenticated check of the peer came by this path and was answered, with success or with an error."""

    path: Path


class PathValidated(msgspec.Struct, frozen=True):
    """The peer answered from this path, or DTLS proved that it is there. The three-fold limit is over."""

    path: Path


class PathSelected(msgspec.Struct, frozen=True):
    """What is sent from now on takes this path."""

    path: Path


class PathReleased(msgspec.Struct, frozen=True):
    """The call has no further claim on the path."""

    path: Path


class Disconnected(msgspec.Struct, frozen=True):
    """Nothing was received for too long and no check was answered. Nothing is sent until that changes."""


class Reconnected(msgspec.Struct, frozen=True):
    """Something authenticated was received from a disconnected peer."""


class IceFailure(StrEnum):
    """Why an agent is closed. The value is fit for a log."""

    NO_ANSWER = "no candidate answered"
    CONSENT_EXPIRED = "consent expired"
    ROLE_CONFLICT = "the peer insists on the controlling role"


class IceFailed(msgspec.Struct, frozen=True):
    """The last event of an agent: it is closed."""

    reason: IceFailure


IceEvent = (
    PathOpened | CheckAccepted | PathValidated | PathSelected | PathReleased | Disconnected | Reconnected | IceFailed
)
