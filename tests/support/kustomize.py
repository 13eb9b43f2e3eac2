"""The part of Kustomize that `k8s/` uses, so that its tests need no program and are quick.

Resources (files and directories), components, JSON 6902 patches with a target, images, namespace; anything else is
refused rather than ignored. `tests/k8s/test_rendering.py` holds it to `kubectl kustomize`.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

KNOWN = {"apiVersion", "kind", "metadata", "resources", "components", "patches", "images", "namespace"}
CLUSTER_WIDE = {"Namespace"}


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""In C where PyYAML was built with it: ten times as fast."""


def render(directory: Path) -> list[Manifest]:
    """All objects of a kustomization. Raises ValueError for what this does not know, KeyError for a bad patch."""
    return _apply(directory.resolve(), [])


def _apply(directory: Path, manifests: list[Manifest]) -> list[Manifest]:
    content = yaml.load((directory / "kustomization.yaml").read_text(), LOADER)
    if unknown := set(content) - KNOWN:
        raise ValueError(f"{directory}: this renderer does not know {', '.join(sorted(unknown))}")
    for name in content.get("resources", []):
        path = directory / name
        manifests += render(path) if path.is_dir() else _documents(path)
    for name in content.get("components", []):
        manifests = _apply((directory / name).resolve(), manifests)
    for patch in content.get("patches", []):
        _patch(manifests, patch["target"], yaml.load((directory / patch["path"]).read_text(), LOADER))
    for image in content.get("images", []):
        for manifest in manifests:
            _set_image(manifest, image["name"], f"{image['newName']}:{image['newTag']}")
    for manifest in manifests:
        if "namespace" in content and manifest["kind"] not in CLUSTER_WIDE:
            manifest["metadata"]["namespace"] = content["namespace"]
    return manifests


def _documents(path: Path) -> list[Manifest]:
    # Copied, so that what an anchor shares in the file can be patched apart.
    return [_unshare(document) for document in yaml.load_all(path.read_text(), LOADER) if document]


def _unshare(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshare(item) for key, item in value.items()}
    return [_unshare(item) for item in value] if isinstance(value, list) else value


def _patch(manifests: list[Manifest], target: dict[str, str], operations: list[dict[str, Any]]) -> None:
    matching = [m for m in manifests if m["kind"] == target["kind"] and m["metadata"]["name"] == target["name"]]
    if len(matching) != 1:
        raise ValueError(f"{len(matching)} objects match the target {target}")
    for operation in operations:
        _operate(matching[0], operation)


def _operate(document: Any, operation: dict[str, Any]) -> None:
    """One operation of RFC 6902: add or replace."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    for part in parents:
        document = document[int(part)] if isinstance(document, list) else document[part]
    value = copy.deepcopy(operation["value"])
    match operation["op"], document:
        case "add", list() if last == "-":
            document.append(value)
        case "add", list():
            document.insert(int(last), value)
        case "add", dict():
            document[last] = value
        case "replace", list():
            document[int(last)] = value
        case "replace", dict():
            if last not in document:
                raise KeyError(f"nothing to replace at {operation['path']}")
            document[last] = value
        case op, _:
            raise ValueError(f"this renderer does not know the operation {op!r}")


def _set_image(value: Any, name: str, image: str) -> None:
    """In every list of containers, at any depth, as Kustomize does also in kinds it does not know."""
    if isinstance(value, list):
        for item in value:
            _set_image(item, name, image)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in ("containers", "initContainers") and isinstance(item, list):
                for container in item:
                    if container.get("image", "").split(":")[0] == name:
                        container["image"] = image
            else:
                _set_image(item, name, image)
