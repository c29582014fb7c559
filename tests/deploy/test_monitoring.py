"""The dashboard and the rules ask for what services export; what they export has few labels."""

import json
import re
import urllib.request
from pathlib import Path

import pytest
import yaml

from support.processes.ports import free_port
from support.processes.services import Service, all_in_one

MONITORING = Path(__file__).parents[2] / "deploy/monitoring"
REFERENCE = Path(__file__).parents[2] / "docs/reference/metrics.md"

BOUNDED = {
    "reason": "antiphon_transceiver.outcome.EndReason",
    "code": "the refusals of signaling",
    "socket": "the addresses of a relay's sockets",
    "le": "the buckets of a histogram",
}
"""Every label, and what bounds its values."""


@pytest.fixture(scope="module")
def exported() -> str:
    """What the services say at /metrics: all in one, and a backend of its own."""
    admin = f"127.0.0.1:{free_port()}"
    backend = Service("antiphon_backend.echo", "--listen", "127.0.0.1:0", "--admin", admin)
    with all_in_one() as deployment, backend:
        backend.wait_ready()
        return scrape(deployment.relay_admin) + scrape(admin)


def scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        return str(response.read().decode())


def series(text: str) -> set[str]:
    """Return the names that can be asked for: those of samples; of a histogram its parts."""
    names = set()
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M):
        names |= {name} if kind != "histogram" else {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    return {name for name in names if not name.endswith("_created")}


def expressions() -> list[str]:
    """Return everything in deploy/monitoring that Prometheus is asked."""
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


def test_dashboard_and_rules_ask_for_metrics_that_services_export(exported: str) -> None:
    asked = {name for text in expressions() for name in re.findall(r"\bantiphon[\w:]+", text)}
    assert len(asked) > 30
    assert asked <= series(exported) | recorded()


def test_every_expression_closes_what_it_opens() -> None:
    for text in expressions():
        assert [text.count(one) for one in "([{"] == [text.count(one) for one in ")]}"], text


def test_labels_are_few_and_bounded(exported: str) -> None:
    labels = set(re.findall(r'[{,](\w+)="', exported))
    assert labels <= set(BOUNDED)


def test_the_reference_lists_every_metric(exported: str) -> None:
    listed = set(re.findall(r"`(antiphon_\w+)`", REFERENCE.read_text()))
    exist = {name for name, _ in re.findall(r"^# TYPE (\w+) (\w+)$", exported, re.M) if not name.endswith("_created")}
    assert exist <= listed


def test_the_scaler_asks_for_what_the_adapter_makes() -> None:
    [adapted] = yaml.safe_load((MONITORING / "adapter.yaml").read_text())["rules"]
    scaler = (MONITORING.parent / "kubernetes/base/transceiver.yaml").read_text()
    assert f"metric: {{name: {adapted['name']['as']}}}" in scaler
