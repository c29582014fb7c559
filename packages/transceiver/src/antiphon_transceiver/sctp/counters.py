"""What an association counts besides data."""


class AssociationCounters:
    """Packets and chunks that an association dropped, by reason. `Association.counters` holds one."""

    def __init__(self) -> None:
        self.malformed = 0
        self.unexpected = 0
        """Chunks that the state does not expect, wrong verification tags and ports, SACKs of TSNs never sent."""
        self.control_dropped = 0
        """Answers for which there was no room, such as one to a HEARTBEAT longer than our packets."""
