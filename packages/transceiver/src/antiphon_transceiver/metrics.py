"""What a transceiver counts, for Prometheus. Labels are bounded: the only one is `EndReason`."""

from prometheus_client import CollectorRegistry, Counter, Histogram

SETUP_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)


class TransceiverMetrics:
    """Counters of calls. Packets are counted by the cores in plain integers and exported as they are."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.attempted = Counter("antiphon_calls_attempted", "Offers that reached the transceiver", registry=registry)
        self.connected = Counter("antiphon_calls_connected", "Calls whose handshake finished", registry=registry)
        self.failed = Counter("antiphon_calls_failed", "Failed set-ups", ["reason"], registry=registry)
        self.ended = Counter("antiphon_calls_ended", "Connected calls that ended", ["reason"], registry=registry)
        self.setup_seconds = Histogram(
            "antiphon_call_setup_seconds", "Offer to finished handshake", buckets=SETUP_BUCKETS, registry=registry
        )
