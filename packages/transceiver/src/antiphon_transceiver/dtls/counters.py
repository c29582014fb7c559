"""What a DTLS endpoint counts."""


class DtlsCounters:
    """What an endpoint dropped, by reason, and what it retransmitted. `DtlsEndpoint.counters` holds one."""

    def __init__(self) -> None:
        self.malformed = 0
        self.unauthentic = 0
        self.replayed = 0
        self.unexpected = 0
        """Duplicate fragments, fragments that do not fit, and records of an epoch that is over or never comes."""
        self.excessive = 0
        """Datagrams cut off after too many records or fragments, and fragments after too many rejected messages."""
        self.impossible = 0
        """Fragments, before the end of the handshake, of messages that the peer's role never sends."""
        self.early_dropped = 0
        """Records of epoch 1 before their keys, for which there was no room."""
        self.deferred = 0
        """Alerts and messages that would have ended a handshake, had they been authenticated."""
        self.retransmissions = 0
        """Flights retransmitted."""
