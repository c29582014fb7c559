"""The manifests of deploy/: they are valid, run without privileges, and match the services."""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest
import yaml

from antiphon_common.settings import FrontSettings, RelaySettings, SharedSettings, TransceiverSettings, parse
from support.processes.kustomize import Manifest, containers, render

DEPLOY = Path(__file__).parents[2] / "deploy"
OVERLAYS = {
    "base": render(DEPLOY / "kubernetes/base"),
    **{path.name: render(path) for path in sorted((DEPLOY / "kubernetes/overlays").iterdir())},
}
VERSIONS = ("1.30", "1.37")
"""The oldest version of Kubernetes with every field, and the newest whose schema is available."""

PRIVILEGES = ("hostNetwork", "hostPort", "hostPID", "hostIPC", "hostPath", "privileged", "nodePort", "externalIPs")
"""Fields that bind a pod to its node, or give it access to the node."""

GROUPS: dict[str, tuple[type[msgspec.Struct], ...]] = {
    "antiphon_relay": (RelaySettings, SharedSettings),
    "antiphon_transceiver": (TransceiverSettings, SharedSettings),
    "antiphon_signaling": (FrontSettings, SharedSettings),
}
POD_IP = "10.244.1.7"


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    """Every manifest of the base, and of each overlay."""
    return OVERLAYS[request.param]


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def fields(value: Any) -> Iterator[str]:
    """Yield the name of every field, at any depth."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from fields(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from fields(inner)


def module_of(image: str) -> str:
    """Return the module that an image of ours runs: what its Dockerfile says."""
    name = image.partition(":")[0].rpartition("/")[2].removeprefix("antiphon-")
    entry = re.search(r'^ENTRYPOINT .*"-m", "([\w.]+)"\]$', (DEPLOY / f"images/{name}.Dockerfile").read_text(), re.M)
    assert entry is not None
    return entry[1]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid_for_kubernetes(manifests: list[Manifest], version: str) -> None:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_no_pod_is_bound_to_its_node_or_privileged(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        found = set(fields(manifest)) & set(PRIVILEGES)
        assert not found, f"{manifest['kind']} {manifest['metadata']['name']} has {', '.join(found)}"
    assert all(port["protocol"] != "SCTP" for _, _, port in service_ports(manifests))


def test_every_pod_passes_the_restricted_pod_security_standard(manifests: list[Manifest]) -> None:
    checked = 0
    for container, pod in containers(manifests):
        checked += 1
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        volumes = {kind for volume in pod.get("volumes", ()) for kind in volume}
        assert volumes <= {"name", "secret", "emptyDir"}
        assert pod["automountServiceAccountToken"] is False
    assert checked == 5


def test_every_flag_is_accepted_by_its_service(manifests: list[Manifest]) -> None:
    [settings] = [each["data"] for each in of_kind(manifests, "ConfigMap")]
    for container, _ in containers(manifests):
        if "redis" not in container["image"]:
            environment = {"POD_IP": POD_IP} | (settings if "envFrom" in container else {})
            expand = re.compile(r"\$\((\w+)\)")
            arguments = [expand.sub(lambda name: environment[name[1]], text) for text in container["args"]]  # noqa: B023
            check_arguments(module_of(container["image"]), arguments, environment)


def test_the_flags_of_the_compose_file_are_accepted_by_its_services() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    text = re.sub(r"\$\{(\w+)[^}]*\}", "192.0.2.7", text)
    services = yaml.safe_load(text)["services"]
    assert not set(fields(services)) & {"privileged", "cap_add", "devices", "pid", "ipc"}
    assert "host" not in {service.get("network_mode") for service in services.values()}
    for service in services.values():
        if service["image"].startswith("antiphon-") and "entrypoint" not in service:
            check_arguments(module_of(service["image"]), service["command"], service.get("environment", {}))


def test_backends_and_redis_are_on_networks_without_link_and_control() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    networks = {name: set(service.get("networks", ())) for name, service in services.items()}
    neighbours = {name: {other for other in networks if networks[name] & networks[other]} for name in networks}
    assert neighbours["backend"] == {"backend", "transceiver"}
    assert neighbours["redis"] == {"redis", "relay", "signaling", "transceiver"}
    assert not networks["redis"] & networks["backend"]
    control = networks["signaling"] & networks["transceiver"] & networks["relay"] - networks["redis"]
    assert len(control) == 1


def check_arguments(module: str, arguments: Sequence[str], environment: dict[str, str]) -> None:
    if module in GROUPS:
        parse(module, "", GROUPS[module], arguments, environment)
        return
    command = [sys.executable, "-m", module, "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert {argument.partition("=")[0] for argument in arguments} <= set(re.findall(r"--[\w-]+", shown))


def test_the_grace_period_of_pods_is_longer_than_the_drain_of_their_service(manifests: list[Manifest]) -> None:
    for container, pod in containers(manifests):
        if "redis" not in container["image"]:
            before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            [drain] = [int(text.partition("=")[2]) for text in container["args"] if text.startswith("--drain")]
            assert pod["terminationGracePeriodSeconds"] >= before + drain + 10


def test_services_select_ports_that_pods_have_and_mix_no_protocols(manifests: list[Manifest]) -> None:
    ports_of = {
        workload["spec"]["template"]["metadata"]["labels"]["app"]: {
            (port["name"], port.get("protocol", "TCP"))
            for container, _ in containers([workload])
            for port in container["ports"]
        }
        for workload in of_kind(manifests, "Deployment", "StatefulSet")
    }
    protocols: dict[str, set[str]] = {}
    for name, app, port in service_ports(manifests):
        assert (port["targetPort"], port["protocol"]) in ports_of[app]
        protocols.setdefault(name, set()).add(port["protocol"])
    assert protocols.pop("relay") == {"UDP"}
    assert set().union(*protocols.values()) == {"TCP"}


def service_ports(manifests: list[Manifest]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield each port with the name of its Service and the app that this selects."""
    for service in of_kind(manifests, "Service"):
        for port in service["spec"]["ports"]:
            yield service["metadata"]["name"], service["spec"]["selector"]["app"], {"protocol": "TCP", **port}


def test_every_service_has_a_disruption_budget_and_a_network_policy(manifests: list[Manifest]) -> None:
    apps = {"relay", "transceiver", "signaling", "backend"}
    budgets = {each["spec"]["selector"]["matchLabels"]["app"] for each in of_kind(manifests, "PodDisruptionBudget")}
    assert budgets == apps
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(manifests, "NetworkPolicy")}
    assert policies["nobody"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    fenced = {each["podSelector"].get("matchLabels", {}).get("app") for each in policies.values()}
    assert apps | {"redis"} <= fenced
    scaled = {each["spec"]["scaleTargetRef"]["name"] for each in of_kind(manifests, "HorizontalPodAutoscaler")}
    assert scaled == {"relay", "transceiver", "signaling"}
