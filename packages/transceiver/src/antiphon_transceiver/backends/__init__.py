"""The transceiver's side of inference backends: a pool of connections, and on each any number of calls.

docs/reference/backend-protocol.md specifies what goes over such a connection.
"""

from antiphon_transceiver.backends.call import BackendCall, BackendError, EventRefused, InboundFrame, Sink
from antiphon_transceiver.backends.group import BackendGroup
from antiphon_transceiver.backends.link import BACKEND_LOST, BackendLink, NoBackend, NoCapacity, SessionTooLarge

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
