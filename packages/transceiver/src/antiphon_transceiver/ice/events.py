"""What an `IceAgent` reports."""

import msgspec

from antiphon_common.core import Path


class PathOpened(msgspec.Struct, frozen=True):
    """The first authenticated check came by this path."""

    path: Path


class PathValidated(msgspec.Struct, frozen=True):
    """The peer answered from this path, or DTLS proved it: the three-fold limit is over."""

    path: Path


class PathSelected(msgspec.Struct, frozen=True):
    """What is sent from now on goes this way."""

    path: Path


class PathReleased(msgspec.Struct, frozen=True):
    """The path fell silent, had to make room, or went with all others when the agent expired."""

    path: Path


class Disconnected(msgspec.Struct, frozen=True):
    """Nothing was heard for `DISCONNECT_AFTER` seconds and our probes were not answered: stop sending."""


class Reconnected(msgspec.Struct, frozen=True):
    """The peer is back, by a path that is validated."""


class Expired(msgspec.Struct, frozen=True):
    """Nothing was heard for `EXPIRE_AFTER` seconds. The agent is closed."""


Event = PathOpened | PathValidated | PathSelected | PathReleased | Disconnected | Reconnected | Expired
