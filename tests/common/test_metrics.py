"""Metrics as read by a scrape."""

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from antiphon_common.metrics import (
    MetricFamily,
    SummedMetrics,
    export_counters,
    export_gauge,
    export_labelled_counters,
    take_snapshot,
)


class SummedCounters:
    __slots__ = ("_hidden", "dropped", "sent")

    def __init__(self, sent: int = 0, dropped: int = 0) -> None:
        self.sent = sent
        self.dropped = dropped
        self._hidden = 7


def worker(sent: int, flows: float) -> tuple[MetricFamily, ...]:
    """Return the metrics of a worker process."""
    registry = CollectorRegistry()
    export_counters(registry, "worker", SummedCounters(sent))
    export_gauge(registry, "worker_flows", "Flows", lambda: flows)
    encoded = msgspec.msgpack.encode(take_snapshot(registry))
    return msgspec.msgpack.decode(encoded, type=tuple[MetricFamily, ...])


def test_counters_are_read_at_each_scrape() -> None:
    registry, counters = CollectorRegistry(), SummedCounters()
    export_counters(registry, "link", counters)
    counters.sent += 3
    assert registry.get_sample_value("link_sent_total") == 3
    assert registry.get_sample_value("link_hidden_total") is None


def test_counters_of_several_sockets_have_a_label() -> None:
    registry = CollectorRegistry()
    export_labelled_counters(
        registry, "socket", "socket", {"link": SummedCounters(1), "public": SummedCounters(2, dropped=5)}
    )
    assert registry.get_sample_value("socket_sent_total", {"socket": "link"}) == 1
    assert registry.get_sample_value("socket_sent_total", {"socket": "public"}) == 2
    assert registry.get_sample_value("socket_dropped_total", {"socket": "public"}) == 5


def test_metrics_of_several_workers_are_summed() -> None:
    registry, sums = CollectorRegistry(), SummedMetrics()
    registry.register(sums)
    sums.update(0, worker(sent=10, flows=1))
    sums.update(1, worker(sent=5, flows=2))
    assert registry.get_sample_value("worker_sent_total") == 15
    assert registry.get_sample_value("worker_flows") == 3


def test_the_counters_of_a_removed_worker_stay_and_its_gauges_do_not() -> None:
    registry, sums = CollectorRegistry(), SummedMetrics()
    registry.register(sums)
    sums.update(0, worker(sent=10, flows=1))
    sums.update(1, worker(sent=5, flows=2))
    sums.remove(0)
    sums.update(0, worker(sent=1, flows=4))
    assert registry.get_sample_value("worker_sent_total") == pytest.approx(16)
    assert registry.get_sample_value("worker_flows") == 6
