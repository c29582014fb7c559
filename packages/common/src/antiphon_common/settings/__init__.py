"""The settings of all services, the sources that they are read from, and their values."""

from antiphon_common.settings.groups import FrontSettings, RelaySettings, SharedSettings, TransceiverSettings
from antiphon_common.settings.sources import SettingsError, backend_urls, parse
from antiphon_common.settings.values import Address, Backend, ClusterNetwork, Media, is_loopback

__all__ = [
    "Address",
    "Backend",
    "ClusterNetwork",
    "FrontSettings",
    "Media",
    "RelaySettings",
    "SettingsError",
    "SharedSettings",
    "TransceiverSettings",
    "backend_urls",
    "is_loopback",
    "parse",
]
