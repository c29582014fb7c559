"""What the admin port exports of a relay, read from plain ints at scrape time."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from antiphon_common.metrics import export_counters, export_gauge
from antiphon_common.shell.calls import UdpCounters
from antiphon_common.shell.udp import BatchSocket
from antiphon_relay.forwarder import Forwarder


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
    export_counters(registry, "antiphon_relay", forwarder.counters)
    export_counters(registry, "antiphon_relay_flows", flows.counters)
    export_gauge(registry, "antiphon_relay_flows", "Paths that have an owner", lambda: len(flows))
    export_gauge(
        registry, "antiphon_relay_confirmed_flows", "Paths whose owner has proved them", lambda: flows.confirmed
    )
    registry.register(_SocketCollector(sockets))
