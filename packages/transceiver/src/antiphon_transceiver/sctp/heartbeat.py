"""HEARTBEATs, which measure the round trip of an idle path (RFC 9260 §8.3). ICE detects a peer that is gone."""

from math import inf

from antiphon_transceiver.sctp.chunks import Heartbeat
from antiphon_transceiver.sctp.parameters import Parameter, ParameterType, encode_parameters

HEARTBEAT_INTERVAL = 30.0
"""Seconds between HEARTBEATs on an idle path (HB.interval of RFC 9260 §16)."""

HEARTBEAT_INFO_SIZE = 8
"""Random bytes in a HEARTBEAT."""


class Heartbeats:
    """When to send a HEARTBEAT, and the round trip that its answer measures. Times are in seconds.

    `make` one at each `deadline`, and pass the value of a HEARTBEAT ACK to `answered`.
    """

    def __init__(self) -> None:
        self.deadline = inf
        self._sent: tuple[bytes, float] | None = None
        """The value of the last HEARTBEAT and when it was sent, until it is answered."""

    def postpone(self, now: float) -> None:
        """Send the next HEARTBEAT an interval from now."""
        self.deadline = now + HEARTBEAT_INTERVAL

    def make(self, info: bytes, now: float) -> Heartbeat:
        """Return a HEARTBEAT that is sent now; `info` is random."""
        heartbeat = Heartbeat(encode_parameters([Parameter(ParameterType.HEARTBEAT_INFO, info)]))
        self._sent = heartbeat.value, now
        return heartbeat

    def answered(self, value: bytes, now: float) -> float | None:
        """Return the round trip measured by a HEARTBEAT ACK, or None if it does not answer our last HEARTBEAT."""
        if self._sent is None or value != self._sent[0]:
            return None
        sent_at, self._sent = self._sent[1], None
        return now - sent_at
