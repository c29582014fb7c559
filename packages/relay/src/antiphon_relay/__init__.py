"""The relay: takes any packet of any call to its owner, and the owner's packets to the client."""

from antiphon_relay.forwarder import LINK, Forwarder
from antiphon_relay.service import AdvertisedMedia, RelayPorts, serve_relay

__all__ = ["LINK", "AdvertisedMedia", "Forwarder", "RelayPorts", "serve_relay"]
