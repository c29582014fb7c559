"""ICE agents of both roles: they check paths, validate them, and select where to send."""

from antiphon_transceiver.ice.agent import IceAgent
from antiphon_transceiver.ice.checks import CONSENT_INTERVAL, STANDBY_INTERVAL
from antiphon_transceiver.ice.controlled import (
    CHECK_AFTER,
    DISCONNECT_AFTER,
    EXPIRE_AFTER,
    REBINDING_SILENCE,
    ControlledAgent,
    ControlledAgentCounters,
)
from antiphon_transceiver.ice.controlling import ControllingAgent, ControllingAgentCounters
from antiphon_transceiver.ice.credentials import MAX_GENERATIONS, ice_password, ice_ufrag
from antiphon_transceiver.ice.events import (
    CheckAccepted,
    Disconnected,
    IceEvent,
    IceFailed,
    IceFailure,
    PathOpened,
    PathReleased,
    PathSelected,
    PathValidated,
    Reconnected,
)
from antiphon_transceiver.ice.paths import AMPLIFICATION_LIMIT, MAX_PATHS, PathState

__all__ = [
    "AMPLIFICATION_LIMIT",
    "CHECK_AFTER",
    "CONSENT_INTERVAL",
    "DISCONNECT_AFTER",
    "EXPIRE_AFTER",
    "MAX_GENERATIONS",
    "MAX_PATHS",
    "REBINDING_SILENCE",
    "STANDBY_INTERVAL",
    "CheckAccepted",
    "ControlledAgent",
    "ControlledAgentCounters",
    "ControllingAgent",
    "ControllingAgentCounters",
    "Disconnected",
    "IceAgent",
    "IceEvent",
    "IceFailed",
    "IceFailure",
    "PathOpened",
    "PathReleased",
    "PathSelected",
    "PathState",
    "PathValidated",
    "Reconnected",
    "ice_password",
    "ice_ufrag",
]
