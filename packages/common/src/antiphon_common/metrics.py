"""Prometheus metrics read at scrape time, so that counting on the media path stays `counters.dropped += 1`."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class _Attributes(Collector):
    def __init__(self, prefix: str, counters: object) -> None:
        self._prefix = prefix
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        for name in _names(self._counters):
            value = getattr(self._counters, name)
            if isinstance(value, int):
                yield CounterMetricFamily(f"{self._prefix}_{name}", name.replace("_", " "), value)


def export_counters(registry: CollectorRegistry, prefix: str, counters: object) -> None:
    """Export each public int attribute of `counters` as the counter `<prefix>_<attribute>_total`."""
    registry.register(_Attributes(prefix, counters))


def export_gauge(registry: CollectorRegistry, name: str, documentation: str, read: Callable[[], float]) -> None:
    """Export what `read` returns at the moment of the scrape."""
    Gauge(name, documentation, registry=registry).set_function(read)


def _names(counters: object) -> list[str]:
    """Public attributes, of a class with `__slots__` or `__struct_fields__` as of any other."""
    slots = [name for kind in type(counters).__mro__ for name in getattr(kind, "__slots__", ())]
    names = dict.fromkeys([*slots, *getattr(counters, "__struct_fields__", ()), *getattr(counters, "__dict__", ())])
    return [name for name in names if not name.startswith("_") and hasattr(counters, name)]
