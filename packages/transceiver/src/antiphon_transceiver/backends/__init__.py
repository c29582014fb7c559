"""The transceiver's side of inference backends: a pool of connections, and on each any number of calls.

docs/reference/backend-protocol.md specifies what goes over such a connection.
"""

from antiphon_transceiver.backends.call import BackendCall, BackendError, EventRefused, InboundFrame
from antiphon_transceiver.backends.connection import (
    BACKEND_LOST,
    BackendConnection,
    NoBackend,
    NoCapacity,
    SessionTooLarge,
)
from antiphon_transceiver.backends.selector import BackendSelector

__all__ = [
    "BACKEND_LOST",
    "BackendCall",
    "BackendConnection",
    "BackendError",
    "BackendSelector",
    "EventRefused",
    "InboundFrame",
    "NoBackend",
    "NoCapacity",
    "SessionTooLarge",
]
