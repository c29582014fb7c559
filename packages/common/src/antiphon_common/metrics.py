"""Prometheus metrics that are read at scrape time. Code on the media path counts by `counters.dropped += 1` alone."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

import msgspec
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


def export_counters(registry: CollectorRegistry, prefix: str, counters: object) -> None:
    """Export each public int attribute of `counters` as the counter `<prefix>_<attribute>_total`."""
    registry.register(_Counters(prefix, counters))


def export_labelled_counters(
    registry: CollectorRegistry, prefix: str, label: str, counters: Mapping[str, object]
) -> None:
    """Export several counter objects of one class under the same names, with the key of each in `label`."""
    registry.register(_LabelledCounters(prefix, label, counters))


def export_gauge(registry: CollectorRegistry, name: str, documentation: str, read: Callable[[], float]) -> None:
    """Export a gauge, whose value `read` returns at each scrape."""
    Gauge(name, documentation, registry=registry).set_function(read)


class MetricSample(msgspec.Struct, frozen=True, array_like=True):
    """One sample of a `MetricFamily`. msgspec encodes it for another process."""

    name: str
    labels: dict[str, str]
    value: float


class MetricFamily(msgspec.Struct, frozen=True, array_like=True):
    """The values of one metric family at one moment. `take_snapshot` returns it, and `SummedMetrics` adds several up.

    msgspec encodes it for another process.
    """

    name: str
    help: str
    kind: str
    samples: tuple[MetricSample, ...]


def take_snapshot(registry: CollectorRegistry) -> tuple[MetricFamily, ...]:
    """Return the present values of all metrics in a registry."""
    return tuple(
        MetricFamily(
            family.name,
            family.documentation,
            family.type,
            tuple(MetricSample(sample.name, sample.labels, sample.value) for sample in family.samples),
        )
        for family in registry.collect()
    )


_Key = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name and labels."""


class SummedMetrics(Collector):
    """The sums of the metrics of several sources, such as worker processes. Register it, and `update` each source.

    The counters of a removed source stay in the sums, so that sums never decrease.
    """

    def __init__(self) -> None:
        self._latest: dict[int, tuple[MetricFamily, ...]] = {}
        self._removed: defaultdict[_Key, float] = defaultdict(float)

    def update(self, source: int, families: tuple[MetricFamily, ...]) -> None:
        """Replace the values of one source, given by its number."""
        self._latest[source] = families

    def remove(self, source: int) -> None:
        """Remove a source that has ended. Its counters stay in the sums."""
        for family in self._latest.pop(source, ()):
            if family.kind == "counter":
                for sample in family.samples:
                    self._removed[_key(sample)] += sample.value

    def collect(self) -> Iterator[Metric]:
        """Yield each metric family with the sums of all sources."""
        families: dict[str, Metric] = {}
        sums = self._removed.copy()
        for family in (family for latest in self._latest.values() for family in latest):
            metric = families.setdefault(family.name, Metric(family.name, family.help, family.kind))
            for sample in family.samples:
                sums[_key(sample)] += sample.value
                families[sample.name] = metric
        for (name, labels), value in sums.items():
            if name in families:
                families[name].add_sample(name, dict(labels), value)
        yield from {id(metric): metric for metric in families.values()}.values()


def _key(sample: MetricSample) -> _Key:
    return sample.name, tuple(sample.labels.items())


class _Counters(Collector):
    def __init__(self, prefix: str, counters: object) -> None:
        self._prefix = prefix
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        for name in counter_names(self._counters):
            value = getattr(self._counters, name)
            if isinstance(value, int):
                yield CounterMetricFamily(f"{self._prefix}_{name}", name.replace("_", " "), value)


class _LabelledCounters(Collector):
    def __init__(self, prefix: str, label: str, counters: Mapping[str, object]) -> None:
        self._prefix = prefix
        self._label = label
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily] = {}
        for value, counters in self._counters.items():
            for name in counter_names(counters):
                if name not in families:
                    documentation = name.replace("_", " ")
                    families[name] = CounterMetricFamily(f"{self._prefix}_{name}", documentation, labels=[self._label])
                families[name].add_metric([value], getattr(counters, name))
        yield from families.values()


def counter_names(counters: object) -> list[str]:
    """Return the names of all counters of an object: its public attributes, with `__slots__` or without."""
    slots = [name for kind in type(counters).__mro__ for name in getattr(kind, "__slots__", ())]
    names = dict.fromkeys([*slots, *getattr(counters, "__struct_fields__", ()), *getattr(counters, "__dict__", ())])
    return [name for name in names if not name.startswith("_") and hasattr(counters, name)]
