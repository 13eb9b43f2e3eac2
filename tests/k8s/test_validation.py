"""Every manifest against the schema of its kind: Kubernetes' own, and the operators' definitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest

from tests.k8s.conftest import OVERLAYS, ROOT
from tests.support.kuberay import pods_of
from tests.support.kustomize import Manifest
from tests.support.openapi import problems, schema_of

OLDEST_KUBERNETES = "1.29"
"""The first in which a sidecar is on by default."""

KUBERNETES = ("1.29", "1.33", "1.37")

SCHEMAS = ROOT.parent / "shared" / "schemas"
DEFINITIONS = {
    "RayService": ("ray.io_rayservices.yaml", "ray.io/v1"),
    "PodMonitor": ("monitoring.coreos.com_podmonitors.yaml", "monitoring.coreos.com/v1"),
    "PrometheusRule": ("monitoring.coreos.com_prometheusrules.yaml", "monitoring.coreos.com/v1"),
    "Gateway": ("gateway.networking.k8s.io_gateways.yaml", "gateway.networking.k8s.io/v1"),
    "Certificate": ("cert-manager.io_certificates.yaml", "cert-manager.io/v1"),
    "HTTPRoute": ("gateway.networking.k8s.io_httproutes.yaml", "gateway.networking.k8s.io/v1"),
}


@pytest.fixture(scope="module", autouse=True)
def schemas_are_read_once() -> Iterator[None]:
    """Of each version they are megabytes, which the package reads for each manifest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes_validate.utils, "schema_contents", cache(kubernetes_validate.utils.schema_contents))
        yield


def definition(kind: str) -> Path:
    file = SCHEMAS / DEFINITIONS[kind][0]
    if not file.is_file():
        pytest.skip(f"the definition of {kind} is not at {SCHEMAS}: its schema is not checked")
    return file


def check(manifest: Manifest) -> list[str]:
    file, api_version = DEFINITIONS[manifest["kind"]]
    assert manifest["apiVersion"] == api_version, file
    return problems(manifest, schema_of(definition(manifest["kind"]), "v1"))


@pytest.mark.parametrize("version", KUBERNETES)
def test_core_kinds(manifests: list[Manifest], version: str) -> None:
    core = [manifest for manifest in manifests if manifest["kind"] not in DEFINITIONS]
    assert core
    for manifest in core:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_pods_within_a_rayservice(manifests: list[Manifest], version: str) -> None:
    pods = pods_of(manifests)
    assert {pod.role for pod in pods} >= {"head", "worker"}
    for pod in pods:
        wrapped = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod.role}, "spec": pod.spec}
        kubernetes_validate.validate(wrapped, version, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("kind", ["RayService", "PodMonitor", "PrometheusRule"])
def test_operators_kinds(manifests: list[Manifest], kind: str) -> None:
    found = [manifest for manifest in manifests if manifest["kind"] == kind]
    for manifest in found:
        assert check(manifest) == []


@pytest.mark.parametrize("kind", ["Gateway", "HTTPRoute"])
def test_the_gateway_component(composed: Callable[..., list[Manifest]], kind: str) -> None:
    [manifest] = [m for m in composed("dev", "gateway") if m["kind"] == kind]
    assert check(manifest) == []


def test_the_certificate(composed: Callable[..., list[Manifest]]) -> None:
    [manifest] = [m for m in composed("dev", "certificate") if m["kind"] == "Certificate"]
    assert check(manifest) == []


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("component", ["external-database", "ingress", "journal", "quality", "tls"])
def test_components_of_core_kinds(composed: Callable[..., list[Manifest]], component: str, version: str) -> None:
    manifests = composed("dev", component)
    for manifest in manifests:
        if manifest["kind"] not in DEFINITIONS:
            kubernetes_validate.validate(manifest, version, strict=True)
    test_the_pods_within_a_rayservice(manifests, version)


@pytest.mark.parametrize("overlay", ["dev"])
def test_a_misspelt_field_is_found(rayservice: Manifest) -> None:
    schema = schema_of(definition("RayService"), "v1")
    wrong = {**rayservice, "spec": {**rayservice["spec"], "excludeHeadFromServeSvc": True}}
    assert problems(wrong, schema) == ["$.spec.excludeHeadFromServeSvc: no such field"]
    wrong = {**rayservice, "spec": {**rayservice["spec"], "rayClusterDeletionDelaySeconds": "120"}}
    assert len(problems(wrong, schema)) == 1
