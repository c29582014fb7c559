"""The metrics that a relay exports on its admin port, read from plain ints at scrape time."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from antiphon_common.metrics import export_counters, export_gauge, export_labelled_counters
from antiphon_relay.forwarder import Forwarder


def export(registry: CollectorRegistry, forwarder: Forwarder, sockets: Mapping[str, object]) -> None:
    """Register every counter of a relay. `sockets` are the counters of its sockets by name."""
    flows = forwarder.flows
    if forwarder.cache is not None:
        export_counters(registry, "antiphon_relay_cache", forwarder.cache.counters)
    export_counters(registry, "antiphon_relay", forwarder.counters)
    export_counters(registry, "antiphon_relay_flows", flows.counters)
    export_labelled_counters(registry, "antiphon_relay_socket", "socket", sockets)
    for name, documentation, read in (
        ("flows", "Paths that have an owner", lambda: len(flows)),
        ("confirmed_flows", "Paths whose owner has confirmed them", lambda: flows.confirmed),
        ("disowned_tokens", "Route tokens whose call is over", lambda: len(forwarder.disowned)),
        ("moves", "Transceivers whose calls have moved to another", lambda: len(forwarder.redirects)),
    ):
        export_gauge(registry, f"antiphon_relay_{name}", documentation, read)
