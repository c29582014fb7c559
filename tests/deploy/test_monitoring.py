"""The dashboard and the rules query metrics that services export, and these have few labels."""

import importlib
import json
import pkgutil
import re
import urllib.request
from pathlib import Path

import pytest
import yaml

import antiphon
import antiphon_backend
import antiphon_common
import antiphon_relay
import antiphon_signaling
import antiphon_transceiver
from antiphon_common.metrics import counter_names
from antiphon_transceiver.core_totals import SOURCES
from antiphon_transceiver.shell.service import TOTALS_INTERVAL
from support.peers.callers import calling
from support.processes.ports import free_port
from support.processes.services import Service, all_in_one
from support.processes.waiting import until_reported

PACKAGES = (
    antiphon,
    antiphon_backend,
    antiphon_common,
    antiphon_relay,
    antiphon_signaling,
    antiphon_transceiver,
)
MONITORING = Path(__file__).parents[2] / "deploy/monitoring"
REFERENCE = Path(__file__).parents[2] / "docs/reference/metrics.md"

PREFIXES = {
    "AnnouncementCounters": "antiphon_transceiver_relays",
    "CacheCounters": "antiphon_relay_cache",
    "CallCounters": "antiphon_backend_calls",
    "CallQualityCounters": "antiphon_transceiver",
    "CallRouterCounters": "antiphon_transceiver_link",
    "ConnectionCounters": "antiphon_backend",
    "HttpCounters": "antiphon_signaling",
    "LimitCounters": "antiphon_signaling",
    "BackendCounters": "antiphon_transceiver_backend",
    "OwnershipCounters": "antiphon_transceiver_paths",
    "RelayCounters": "antiphon_relay",
    "RelayTableCounters": "antiphon_transceiver_relays",
    "SupervisorCounters": "antiphon_relay_worker",
    "UdpCounters": "antiphon_transceiver_socket",
}
"""The prefix of the metrics of each class of counters, apart from those of the cores of calls."""

WITH_SETTINGS = {"CacheCounters": "--redis", "SupervisorCounters": "--workers"}
"""Classes whose counters are exported with a setting only. The reference must list them."""

OF_CLIENTS = {"ControllingAgentCounters"}
"""Counters of the test client, which exports no metrics."""

BOUNDED = {
    "core": "antiphon_transceiver.core_totals.SOURCES",
    "counter": "the same",
    "reason": "antiphon_transceiver.outcome.EndReason",
    "code": "the refusals of signaling",
    "socket": "the addresses of a relay's sockets",
    "le": "the buckets of a histogram",
}
"""Every label, with the reason why its values are bounded."""


@pytest.fixture(scope="module")
def exported() -> str:
    """Return /metrics of all services in one process, and of a separate backend."""
    admin = f"127.0.0.1:{free_port()}"
    backend = Service("antiphon_backend.echo", "--listen", "127.0.0.1:0", "--admin", admin)
    with all_in_one() as deployment, backend:
        backend.wait_ready()
        return scrape(deployment.relay_admin) + scrape(admin)


def scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        return str(response.read().decode())


def series(text: str) -> set[str]:
    """Return the names that can be queried: those of samples, and of the parts of histograms."""
    names = set()
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M):
        names |= {name} if kind != "histogram" else {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    return {name for name in names if not name.endswith("_created")}


def expressions() -> list[str]:
    """Return all Prometheus expressions in deploy/monitoring."""
    groups = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    [adapted] = yaml.safe_load((MONITORING / "adapter.yaml").read_text())["rules"]
    return [
        *(rule["expr"] for group in groups for rule in group["rules"]),
        *(target["expr"] for panel in panels for target in panel["targets"]),
        adapted["seriesQuery"],
        adapted["metricsQuery"],
    ]


def recorded() -> set[str]:
    groups = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
    return {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}


def test_dashboard_and_rules_query_metrics_that_services_export(exported: str) -> None:
    asked = {name for text in expressions() for name in re.findall(r"\bantiphon[\w:]+", text)}
    assert len(asked) > 30
    assert asked <= series(exported) | recorded()


def test_every_expression_has_balanced_brackets() -> None:
    for text in expressions():
        assert [text.count(one) for one in "([{"] == [text.count(one) for one in ")]}"], text


def test_labels_are_few_and_bounded(exported: str) -> None:
    labels = set(re.findall(r'[{,](\w+)="', exported))
    assert labels <= set(BOUNDED)


def test_the_reference_lists_every_metric(exported: str) -> None:
    listed = set(re.findall(r"`(antiphon_\w+)`", REFERENCE.read_text()))
    exist = {name for name, _ in re.findall(r"^# TYPE (\w+) (\w+)$", exported, re.M) if not name.endswith("_created")}
    assert exist <= listed


def counter_classes() -> dict[str, type]:
    """Return every public class of counters in the packages, by name."""
    found: dict[str, type] = {}
    for package in PACKAGES:
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if module.name.endswith("__main__"):
                continue
            for name, value in vars(importlib.import_module(module.name)).items():
                if isinstance(value, type) and name.endswith("Counters") and value.__module__ == module.name:
                    found[name] = value
    return {name: kind for name, kind in found.items() if not name.startswith("_")}


def test_every_counter_is_exported(exported: str) -> None:
    cores = {source.kind for source in SOURCES}
    listed = set(re.findall(r"`(antiphon_\w+)`", REFERENCE.read_text()))
    for name, kind in counter_classes().items():
        if name in OF_CLIENTS:
            continue
        if kind in cores:
            continue  # the next test looks for them
        assert name in PREFIXES, f"{name} is a class of counters that no metric is known for"
        metrics = {f"{PREFIXES[name]}_{counter}_total" for counter in counter_names(kind())}
        assert metrics <= (listed if name in WITH_SETTINGS else series(exported)), name


def test_every_counter_of_the_cores_of_calls_is_exported_and_listed(exported: str) -> None:
    name = "antiphon_transceiver_core_events_total"
    samples = set(re.findall(rf'^{name}{{core="(\w+)",counter="(\w+)"}}', exported, re.M))
    assert samples == {(source.core, counter) for source in SOURCES for counter in source.names}
    for source in SOURCES:
        if source.kind is not None:
            assert set(source.names) == set(counter_names(source.kind()))
        [row] = re.findall(rf"^\| `{source.core}` \|.*$", REFERENCE.read_text(), re.M)
        assert set(re.findall(r"`(\w+)`", row)) == {source.core, *source.names}


async def test_the_counters_of_a_running_call_are_exported() -> None:
    received = re.compile(r'core_events_total\{core="media",counter="rtp_received"\} ([\d.]+)')
    with all_in_one() as deployment:
        async with calling(deployment.url) as callers:
            await callers.call()
            await until_reported(
                lambda: float(received.findall(scrape(deployment.relay_admin))[0]) > 0, TOTALS_INTERVAL + 5.0
            )


def test_the_scaler_queries_a_metric_of_the_adapter() -> None:
    [adapted] = yaml.safe_load((MONITORING / "adapter.yaml").read_text())["rules"]
    scaler = (MONITORING.parent / "kubernetes/base/transceiver.yaml").read_text()
    assert f"metric: {{name: {adapted['name']['as']}}}" in scaler
