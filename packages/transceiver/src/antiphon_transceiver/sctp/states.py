"""The states of an association (RFC 9260 §4), and in which of them each chunk means anything.

    one side                       the other
    INIT               ───▶                           COOKIE_WAIT
                       ◀───        INIT ACK           a cookie, and nothing remembered
    COOKIE ECHO, DATA  ───▶                           COOKIE_ECHOED
                       ◀───        COOKIE ACK, DATA   ESTABLISHED

In WebRTC both sides send an INIT; each answers the other's, and whoever hears COOKIE ECHO or COOKIE ACK first is
established (RFC 9260 §5.2). At the end:

    SHUTDOWN           ───▶                           SHUTDOWN_SENT; before, while data is out, SHUTDOWN_PENDING
                       ◀───        SHUTDOWN ACK       SHUTDOWN_ACK_SENT; before, while data is out, SHUTDOWN_RECEIVED
    SHUTDOWN COMPLETE  ───▶                           ENDED
"""

from collections.abc import Mapping
from enum import Enum, auto

from antiphon_transceiver.sctp.chunks import ChunkType


class AssociationState(Enum):
    CLOSED = auto()
    """Not begun, but an INIT of the peer is answered."""
    COOKIE_WAIT = auto()
    COOKIE_ECHOED = auto()
    ESTABLISHED = auto()
    SHUTDOWN_PENDING = auto()
    SHUTDOWN_SENT = auto()
    SHUTDOWN_RECEIVED = auto()
    SHUTDOWN_ACK_SENT = auto()
    ENDED = auto()
    """Over for good."""


SETTING_UP = frozenset({AssociationState.CLOSED, AssociationState.COOKIE_WAIT, AssociationState.COOKIE_ECHOED})
SENDING = frozenset(
    {AssociationState.ESTABLISHED, AssociationState.SHUTDOWN_PENDING, AssociationState.SHUTDOWN_RECEIVED}
)
"""Data may leave; what is new of our user only in the first of them."""

RECEIVING = frozenset(
    {
        AssociationState.COOKIE_ECHOED,
        AssociationState.ESTABLISHED,
        AssociationState.SHUTDOWN_PENDING,
        AssociationState.SHUTDOWN_SENT,
    }
)
"""Data is taken. In COOKIE_ECHOED it overtook the COOKIE ACK, since who sends data has our cookie."""

_HAS_PEER = RECEIVING | {AssociationState.SHUTDOWN_RECEIVED, AssociationState.SHUTDOWN_ACK_SENT}

EXPECTED: Mapping[int, frozenset[AssociationState]] = {
    ChunkType.DATA: RECEIVING,
    ChunkType.INIT: SETTING_UP | {AssociationState.ESTABLISHED},
    ChunkType.INIT_ACK: frozenset({AssociationState.COOKIE_WAIT}),
    ChunkType.SACK: SENDING | {AssociationState.COOKIE_ECHOED},
    ChunkType.HEARTBEAT: _HAS_PEER,
    ChunkType.HEARTBEAT_ACK: _HAS_PEER,
    ChunkType.ABORT: _HAS_PEER | {AssociationState.COOKIE_WAIT},
    ChunkType.SHUTDOWN: _HAS_PEER,
    ChunkType.SHUTDOWN_ACK: frozenset({AssociationState.SHUTDOWN_SENT, AssociationState.SHUTDOWN_ACK_SENT}),
    ChunkType.ERROR: _HAS_PEER,
    ChunkType.COOKIE_ECHO: SETTING_UP | {AssociationState.ESTABLISHED},
    ChunkType.COOKIE_ACK: frozenset({AssociationState.COOKIE_ECHOED, AssociationState.ESTABLISHED}),
    ChunkType.SHUTDOWN_COMPLETE: frozenset({AssociationState.SHUTDOWN_ACK_SENT}),
    ChunkType.RECONFIG: SENDING,
    ChunkType.FORWARD_TSN: RECEIVING,
}
"""Anything else is counted and dropped."""
