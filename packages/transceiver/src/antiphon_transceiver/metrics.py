"""The Prometheus metrics of a transceiver. The values of labels are bounded: `EndReason`, and the counters of cores."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from antiphon_transceiver.core_totals import CoreTotals

SETUP_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)


class TransceiverMetrics:
    """Metrics of calls. Create one for a registry, and increment its members as calls begin and end.

    Packets are not counted here: the cores count them in plain integers, which `CoreMetrics` exports.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.attempted = Counter("antiphon_calls_attempted", "Offers that reached the transceiver", registry=registry)
        self.connected = Counter("antiphon_calls_connected", "Calls whose handshake finished", registry=registry)
        self.failed = Counter("antiphon_calls_failed", "Failed set-ups", ["reason"], registry=registry)
        self.ended = Counter("antiphon_calls_ended", "Connected calls that ended", ["reason"], registry=registry)
        self.setup_seconds = Histogram(
            "antiphon_call_setup_seconds", "Offer to finished handshake", buckets=SETUP_BUCKETS, registry=registry
        )


class CoreMetrics(Collector):
    """Exports `CoreTotals` as one metric with the labels `core` and `counter`. Register it with a registry."""

    def __init__(self, totals: CoreTotals) -> None:
        self._totals = totals

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the metric with its present values."""
        family = CounterMetricFamily(
            "antiphon_transceiver_core_events",
            "What the protocol cores of calls have counted, drops above all",
            labels=["core", "counter"],
        )
        for core, counter, total in self._totals.items():
            family.add_metric([core, counter], total)
        yield family
