"""Renders a kustomize tree as `kustomize build` does, as far as deploy/ uses it. Debian has no package of kustomize.

It supports resources, namespace, images, and JSON patches (RFC 6902: add, replace, remove). Any other field of a
kustomization is an error, so that nothing is silently ignored.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

CLUSTER_WIDE = ("Namespace",)
"""Kinds without a namespace; the tree has no others."""


def render(folder: Path) -> list[Manifest]:
    """Return every manifest of the kustomization in `folder`."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    resources = kustomization.pop("resources")
    manifests = [manifest for name in resources for manifest in _load(folder / name)]
    assert kustomization.pop("apiVersion") == "kustomize.config.k8s.io/v1beta1"
    assert kustomization.pop("kind") == "Kustomization"
    for patch in kustomization.pop("patches", []):
        _patch(manifests, **patch)
    for image in kustomization.pop("images", []):
        _rename_image(manifests, **image)
    namespace = kustomization.pop("namespace", None)
    assert not kustomization, f"{folder}: {', '.join(kustomization)} cannot be rendered here"
    for manifest in manifests if namespace else ():
        if manifest["kind"] in CLUSTER_WIDE:
            manifest["metadata"]["name"] = namespace
        else:
            manifest["metadata"]["namespace"] = namespace
    return manifests


def containers(manifests: list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """Yield each container with the pod's specification around it."""
    for manifest in manifests:
        template = manifest.get("spec", {}).get("template", {}).get("spec", {})
        for container in template.get("initContainers", []) + template.get("containers", []):
            yield container, template


def _load(path: Path) -> list[Manifest]:
    return render(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))


def _rename_image(manifests: list[Manifest], name: str, newName: str, newTag: str) -> None:  # noqa: N803
    renamed = [container for container, _ in containers(manifests) if container["image"] == name]
    assert renamed, f"no container has the image {name}"
    for container in renamed:
        container["image"] = f"{newName}:{newTag}"


def _patch(manifests: list[Manifest], target: dict[str, str], patch: str) -> None:
    kind, name = target["kind"], target["name"]
    found = [each for each in manifests if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    assert found, f"no {kind} is called {name}"
    for manifest in found:
        for operation in yaml.safe_load(patch):
            _OPERATIONS[operation["op"]](*_locate(manifest, operation["path"]), operation.get("value"))


def _locate(manifest: Manifest, pointer: str) -> tuple[Any, Any]:
    """Return the container that a JSON pointer (RFC 6901) refers into, and the key in it."""
    *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in pointer.removeprefix("/").split("/"))
    value: Any = manifest
    for part in parents:
        value = value[int(part) if isinstance(value, list) else part]
    return value, int(last) if isinstance(value, list) and last != "-" else last


def _add(holder: Any, key: Any, value: Any) -> None:
    if isinstance(holder, list):
        holder.insert(len(holder) if key == "-" else key, value)
    else:
        holder[key] = value


def _replace(holder: Any, key: Any, value: Any) -> None:
    holder[key]  # raises unless it exists
    holder[key] = value


def _remove(holder: Any, key: Any, value: Any) -> None:
    del holder[key]


_OPERATIONS: dict[str, Callable[[Any, Any, Any], None]] = {"add": _add, "replace": _replace, "remove": _remove}
