"""What the admin port exports of a relay, read from plain ints at scrape time."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from antiphon_common.metrics import export_counters, export_gauge
from antiphon_common.shell.system_calls import UdpCounters
from antiphon_common.shell.udp import BatchSocket
from antiphon_relay.forwarder import Forwarder
from antiphon_relay.shell.worker_ipc import Figures, Sample


class _SocketCollector(Collector):
    """The counters of all sockets, each under its name."""

    def __init__(self, sockets: Mapping[str, BatchSocket]) -> None:
        self._sockets = sockets

    def collect(self) -> Iterator[Metric]:
        for field in UdpCounters.__slots__:
            family = CounterMetricFamily(f"antiphon_relay_socket_{field}", f"Datagrams {field}", labels=["socket"])
            for name, sock in self._sockets.items():
                family.add_metric([name], getattr(sock.counters, field))
            yield family


def export(registry: CollectorRegistry, forwarder: Forwarder, sockets: Mapping[str, BatchSocket]) -> None:
    """Register everything a relay counts."""
    flows = forwarder.flows
    if forwarder.cache is not None:
        export_counters(registry, "antiphon_relay_cache", forwarder.cache.counters)
    export_counters(registry, "antiphon_relay", forwarder.counters)
    export_counters(registry, "antiphon_relay_flows", flows.counters)
    export_gauge(registry, "antiphon_relay_flows", "Paths that have an owner", lambda: len(flows))
    export_gauge(
        registry, "antiphon_relay_confirmed_flows", "Paths whose owner has proved them", lambda: flows.confirmed
    )
    export_gauge(
        registry, "antiphon_relay_disowned_tokens", "Tokens whose call is over", lambda: len(forwarder.disowned)
    )
    registry.register(_SocketCollector(sockets))
    export_gauge(
        registry,
        "antiphon_relay_moves",
        "Transceivers whose calls have gone to another",
        lambda: len(forwarder.redirects),
    )


def take_figures(registry: CollectorRegistry) -> tuple[Figures, ...]:
    """Return everything in a registry as it is now."""
    return tuple(
        Figures(
            family.name,
            family.documentation,
            family.type,
            tuple(Sample(sample.name, sample.labels, sample.value) for sample in family.samples),
        )
        for family in registry.collect()
    )


_Key = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name and labels."""


class WorkerFigures(Collector):
    """The sums of what all workers count, by their places. Counters keep what a worker that ended had counted."""

    def __init__(self) -> None:
        self._latest: dict[int, tuple[Figures, ...]] = {}
        self._ended: defaultdict[_Key, float] = defaultdict(float)

    def update(self, place: int, figures: tuple[Figures, ...]) -> None:
        self._latest[place] = figures

    def end(self, place: int) -> None:
        """Note that the worker of a place is gone."""
        for family in self._latest.pop(place, ()):
            if family.kind == "counter":
                for sample in family.samples:
                    self._ended[_key(sample)] += sample.value

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        sums = self._ended.copy()
        for family in (family for figures in self._latest.values() for family in figures):
            metric = families.setdefault(family.name, Metric(family.name, family.help, family.kind))
            for sample in family.samples:
                sums[_key(sample)] += sample.value
                families[sample.name] = metric
        for (name, labels), value in sums.items():
            if name in families:
                families[name].add_sample(name, dict(labels), value)
        yield from {id(metric): metric for metric in families.values()}.values()


def _key(sample: Sample) -> _Key:
    return sample.name, tuple(sample.labels.items())
