"""What the tests render is what `kubectl kustomize` renders."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.k8s.conftest import K8S
from tests.support.kustomize import Manifest, _operate
from tests.support.programs import program

OLDEST = (1, 21)
"""Debian 12 has kubectl 1.20 with Kustomize 2.0.3: it knows no components, no `patches`, no directories as resources
and no anchors in resources. From 1.21 on (Kustomize 4) all of what is used here is known."""


def identity(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def plain(value: Any) -> Any:
    """Numbers and strings as the API server reads them."""
    return json.loads(json.dumps(value))


def test_kubectl_renders_the_same(overlay: str, manifests: list[Manifest]) -> None:
    kubectl = program("kubectl", "kubernetes-client")
    version = subprocess.run([kubectl, "version", "--client"], capture_output=True, text=True, timeout=120).stdout
    found = re.search(r"v(\d+)\.(\d+)", version) or re.search(r'Major:"(\d+)", Minor:"(\d+)', version)
    assert found, version
    if (int(found[1]), int(found[2])) < OLDEST:
        pytest.skip(f"kubectl {found[1]}.{found[2]} knows no Kustomize components; our own renderer was used")
    command = [kubectl, "kustomize", str(K8S / "overlays" / overlay)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    theirs = {identity(m): plain(m) for m in yaml.safe_load_all(result.stdout)}
    ours = {identity(m): plain(m) for m in manifests}
    assert ours.keys() == theirs.keys()
    for key, manifest in ours.items():
        assert manifest == theirs[key], key


def test_no_two_objects_have_one_name(manifests: list[Manifest]) -> None:
    names = [identity(manifest) for manifest in manifests]
    assert len(names) == len(set(names))


def test_every_component_is_used_or_composable() -> None:
    used = {p.parent.name for p in K8S.glob("components/*/kustomization.yaml")}
    named = {
        name.rpartition("/")[2]
        for file in K8S.rglob("kustomization.yaml")
        for name in yaml.safe_load(file.read_text()).get("components", [])
    }
    own = {"gateway", "ingress", "quality", "traces", "external-database", "journal", "certificate", "tls"}
    assert used - named == own  # for an operator's own overlay


@pytest.mark.parametrize("operation", [{"op": "replace", "path": "/b", "value": 1}])
def test_a_patch_that_finds_nothing_is_an_error(operation: dict[str, Any]) -> None:
    with pytest.raises(KeyError):
        _operate({"a": 1}, operation)
