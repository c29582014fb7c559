"""The states of an association (RFC 9260 §4), the steps between them, and the chunks that each state expects.

    one side                       the other
    INIT               ───▶                           COOKIE_WAIT
                       ◀───        INIT ACK           a cookie; no state is kept
    COOKIE ECHO, DATA  ───▶                           COOKIE_ECHOED
                       ◀───        COOKIE ACK, DATA   ESTABLISHED

In WebRTC both sides send an INIT, and each answers the INIT of the other. The first side that receives COOKIE ECHO or
COOKIE ACK is established (RFC 9260 §5.2). Shutdown:

    SHUTDOWN           ───▶                           SHUTDOWN_SENT; SHUTDOWN_PENDING while data is outstanding
                       ◀───        SHUTDOWN ACK       SHUTDOWN_ACK_SENT; SHUTDOWN_RECEIVED while data is outstanding
    SHUTDOWN COMPLETE  ───▶                           ENDED
"""

from collections.abc import Mapping
from enum import Enum, auto

from antiphon_transceiver.sctp.chunks import ChunkType


class AssociationState(Enum):
    """The state of an association. `TRANSITIONS` has the steps from each, `EXPECTED` the chunks that it accepts."""

    CLOSED = auto()
    """Not begun; an INIT of the peer is answered."""
    COOKIE_WAIT = auto()
    COOKIE_ECHOED = auto()
    ESTABLISHED = auto()
    SHUTDOWN_PENDING = auto()
    SHUTDOWN_SENT = auto()
    SHUTDOWN_RECEIVED = auto()
    SHUTDOWN_ACK_SENT = auto()
    ENDED = auto()
    """The final state."""


class Step(Enum):
    """What changes the state of an association."""

    ASSOCIATE = auto()
    """Our user starts it: INIT is sent."""
    COOKIE_RECEIVED = auto()
    """INIT ACK was received: COOKIE ECHO is sent."""
    COOKIE_STALE = auto()
    """ERROR reported that the cookie is too old: INIT is sent again (RFC 9260 §5.2.6)."""
    ESTABLISH = auto()
    """COOKIE ECHO, COOKIE ACK or DATA was received."""
    SHUT_DOWN = auto()
    """Our user shuts it down."""
    SHUTDOWN_RECEIVED = auto()
    ALL_ACKNOWLEDGED = auto()
    """No data is outstanding: SHUTDOWN or SHUTDOWN ACK is sent."""
    END = auto()
    """SHUTDOWN ACK or SHUTDOWN COMPLETE was received, or an ABORT was sent or received."""


_S = AssociationState

TRANSITIONS: Mapping[tuple[AssociationState, Step], AssociationState] = {
    (_S.CLOSED, Step.ASSOCIATE): _S.COOKIE_WAIT,
    (_S.CLOSED, Step.ESTABLISH): _S.ESTABLISHED,
    (_S.COOKIE_WAIT, Step.COOKIE_RECEIVED): _S.COOKIE_ECHOED,
    (_S.COOKIE_WAIT, Step.ESTABLISH): _S.ESTABLISHED,
    (_S.COOKIE_ECHOED, Step.COOKIE_STALE): _S.COOKIE_WAIT,
    (_S.COOKIE_ECHOED, Step.ESTABLISH): _S.ESTABLISHED,
    (_S.COOKIE_ECHOED, Step.SHUTDOWN_RECEIVED): _S.SHUTDOWN_RECEIVED,
    (_S.ESTABLISHED, Step.SHUT_DOWN): _S.SHUTDOWN_PENDING,
    (_S.ESTABLISHED, Step.SHUTDOWN_RECEIVED): _S.SHUTDOWN_RECEIVED,
    (_S.SHUTDOWN_PENDING, Step.ALL_ACKNOWLEDGED): _S.SHUTDOWN_SENT,
    (_S.SHUTDOWN_PENDING, Step.SHUTDOWN_RECEIVED): _S.SHUTDOWN_RECEIVED,
    (_S.SHUTDOWN_SENT, Step.SHUTDOWN_RECEIVED): _S.SHUTDOWN_ACK_SENT,
    (_S.SHUTDOWN_RECEIVED, Step.SHUTDOWN_RECEIVED): _S.SHUTDOWN_RECEIVED,
    (_S.SHUTDOWN_RECEIVED, Step.ALL_ACKNOWLEDGED): _S.SHUTDOWN_ACK_SENT,
} | {(state, Step.END): _S.ENDED for state in AssociationState if state is not _S.ENDED}
"""The state after each step (RFC 9260 §4, Figure 3)."""


SETTING_UP = frozenset({_S.CLOSED, _S.COOKIE_WAIT, _S.COOKIE_ECHOED})
SENDING = frozenset({_S.ESTABLISHED, _S.SHUTDOWN_PENDING, _S.SHUTDOWN_RECEIVED})
"""States in which DATA is sent. Our user can queue messages only in the first of them."""

RECEIVING = frozenset(
    {
        _S.COOKIE_ECHOED,
        _S.ESTABLISHED,
        _S.SHUTDOWN_PENDING,
        _S.SHUTDOWN_SENT,
    }
)
"""States in which DATA is accepted. In COOKIE_ECHOED it has overtaken COOKIE ACK: its sender has our cookie."""

_HAS_PEER = RECEIVING | {_S.SHUTDOWN_RECEIVED, _S.SHUTDOWN_ACK_SENT}

EXPECTED: Mapping[int, frozenset[AssociationState]] = {
    ChunkType.DATA: RECEIVING,
    ChunkType.INIT: SETTING_UP | {_S.ESTABLISHED},
    ChunkType.INIT_ACK: frozenset({_S.COOKIE_WAIT}),
    ChunkType.SACK: SENDING | {_S.COOKIE_ECHOED},
    ChunkType.HEARTBEAT: _HAS_PEER,
    ChunkType.HEARTBEAT_ACK: _HAS_PEER,
    ChunkType.ABORT: _HAS_PEER | {_S.COOKIE_WAIT},
    ChunkType.SHUTDOWN: _HAS_PEER,
    ChunkType.SHUTDOWN_ACK: frozenset({_S.SHUTDOWN_SENT, _S.SHUTDOWN_ACK_SENT}),
    ChunkType.ERROR: _HAS_PEER,
    ChunkType.COOKIE_ECHO: SETTING_UP | {_S.ESTABLISHED},
    ChunkType.COOKIE_ACK: frozenset({_S.COOKIE_ECHOED, _S.ESTABLISHED}),
    ChunkType.SHUTDOWN_COMPLETE: frozenset({_S.SHUTDOWN_ACK_SENT}),
    ChunkType.RECONFIG: SENDING,
    ChunkType.FORWARD_TSN: RECEIVING,
}
"""The states in which a chunk is handled. In other states it is counted and dropped."""
