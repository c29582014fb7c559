"""The relays of a transceiver: which are live, by which of them each path is reached, and what they are sent.

table.py has the relays and their silence, routes.py the way to each path, announcements.py what relays have to learn.
"""

from antiphon_transceiver.relays.announcements import MAX_CLAIMED, REPEAT_INTERVAL, REPEAT_STEP, Notice
from antiphon_transceiver.relays.core import Event, Relays, RoutesChanged
from antiphon_transceiver.relays.routes import Route, RouteTable
from antiphon_transceiver.relays.table import (
    FORGET_AFTER,
    MAX_RELAYS,
    SILENT_AFTER,
    Address,
    AddressMoved,
    IngressFound,
    IngressLost,
    RelayBegan,
    RelaySilenced,
    RelayTable,
    TableEvent,
)

__all__ = [
    "FORGET_AFTER",
    "MAX_CLAIMED",
    "MAX_RELAYS",
    "REPEAT_INTERVAL",
    "REPEAT_STEP",
    "SILENT_AFTER",
    "Address",
    "AddressMoved",
    "Event",
    "IngressFound",
    "IngressLost",
    "Notice",
    "RelayBegan",
    "RelaySilenced",
    "RelayTable",
    "Relays",
    "Route",
    "RouteTable",
    "RoutesChanged",
    "TableEvent",
]
