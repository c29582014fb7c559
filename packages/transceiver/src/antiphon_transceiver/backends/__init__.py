"""The transceiver's side of inference backends: a pool of connections, and on each any number of calls.

docs/reference/backend-protocol.md specifies what goes over such a connection.
"""

from antiphon_transceiver.backends.call import BackendCall, BackendError, EventRefused, InboundFrame, Sink
from antiphon_transceiver.backends.connection import BACKEND_LOST, BackendLink, NoBackend, NoCapacity, SessionTooLarge
from antiphon_transceiver.backends.selector import BackendGroup

__all__ = [
    "BACKEND_LOST",
    "BackendCall",
    "BackendError",
    "BackendGroup",
    "BackendLink",
    "EventRefused",
    "InboundFrame",
    "NoBackend",
    "NoCapacity",
    "SessionTooLarge",
    "Sink",
]
