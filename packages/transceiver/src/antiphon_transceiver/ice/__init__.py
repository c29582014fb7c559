"""ICE-lite: answers checks, validates paths, tells where to send."""

from antiphon_transceiver.ice.controlled import (
    BACKUP_INTERVAL,
    CONSENT_INTERVAL,
    DISCONNECT_AFTER,
    EXPIRE_AFTER,
    PROBE_AFTER,
    REBOUND_SILENCE,
    ControlledAgent,
    ControlledAgentCounters,
)
from antiphon_transceiver.ice.credentials import MAX_GENERATIONS, ice_password, ice_ufrag
from antiphon_transceiver.ice.events import (
    Disconnected,
    Event,
    Expired,
    PathOpened,
    PathReleased,
    PathSelected,
    PathValidated,
    Reconnected,
)
from antiphon_transceiver.ice.paths import AMPLIFICATION_LIMIT, MAX_PATHS

__all__ = [
    "AMPLIFICATION_LIMIT",
    "BACKUP_INTERVAL",
    "CONSENT_INTERVAL",
    "DISCONNECT_AFTER",
    "EXPIRE_AFTER",
    "MAX_GENERATIONS",
    "MAX_PATHS",
    "PROBE_AFTER",
    "REBOUND_SILENCE",
    "ControlledAgent",
    "ControlledAgentCounters",
    "Disconnected",
    "Event",
    "Expired",
    "PathOpened",
    "PathReleased",
    "PathSelected",
    "PathValidated",
    "Reconnected",
    "ice_password",
    "ice_ufrag",
]
