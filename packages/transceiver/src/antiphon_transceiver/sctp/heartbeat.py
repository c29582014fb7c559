"""HEARTBEATs, which measure an idle path (RFC 9260 §8.3). Whether the peer is there at all is for ICE to find out."""

from math import inf

from antiphon_transceiver.sctp.chunks import Heartbeat
from antiphon_transceiver.sctp.parameters import Parameter, ParameterType, encode_parameters

HEARTBEAT_INTERVAL = 30.0
"""Seconds of silence after which the path is measured (HB.interval of RFC 9260 §16)."""

HEARTBEAT_INFO_SIZE = 8
"""Random bytes in a HEARTBEAT."""


class Heartbeats:
    """When to send a HEARTBEAT, and what its answer measures. Times are in seconds."""

    def __init__(self) -> None:
        self.deadline = inf
        self._sent: tuple[bytes, float] | None = None
        """What the last HEARTBEAT carried and when it left, until it is answered."""

    def postpone(self, now: float) -> None:
        """Send the next HEARTBEAT an interval from now."""
        self.deadline = now + HEARTBEAT_INTERVAL

    def make(self, info: bytes, now: float) -> Heartbeat:
        """Return a HEARTBEAT that leaves now; `info` is random."""
        heartbeat = Heartbeat(encode_parameters([Parameter(ParameterType.HEARTBEAT_INFO, info)]))
        self._sent = heartbeat.value, now
        return heartbeat

    def answered(self, value: bytes, now: float) -> float | None:
        """Return the round trip that a HEARTBEAT ACK measured, None if it answers no HEARTBEAT of ours."""
        if self._sent is None or value != self._sent[0]:
            return None
        sent_at, self._sent = self._sent[1], None
        return now - sent_at
