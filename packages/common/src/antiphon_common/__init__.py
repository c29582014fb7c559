"""What two Antiphon services must agree on, and the vocabulary of their protocol cores.

Every module is imported by its own name (`antiphon_common.link`, `antiphon_common.shell.udp`), so that a relay pays for
nothing that only signaling needs. Exported here is what every core speaks.
"""

from antiphon_common.core import Core, Path, Transmit
from antiphon_common.errors import AntiphonError, DecodeError, LocalProtocolError, RemoteProtocolError

__all__ = [
    "AntiphonError",
    "Core",
    "DecodeError",
    "LocalProtocolError",
    "Path",
    "RemoteProtocolError",
    "Transmit",
]
