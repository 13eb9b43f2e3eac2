"""Whatever one object names of another exists, and pods are locked down."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.k8s.conftest import ROOT
from tests.support.kuberay import Pod, pods_of, services_of
from tests.support.kustomize import Manifest
from tests.support.network_policy import selects

OPERATORS_SECRETS: dict[str, set[str]] = {"starcoder-tls": {"tls.crt", "tls.key"}}
"""Made by others: here cert-manager, or whoever issues certificates."""


def walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


def secrets_in_the_guide() -> dict[str, set[str]]:
    """What docs/deploy.md has an operator create: name and keys."""
    text = (ROOT / "docs" / "deploy.md").read_text().replace("\\\n", " ")
    found: dict[str, set[str]] = {}
    for name, rest in re.findall(r"kubectl create secret generic (\S+)([^\n]*)", text):
        found[name] = set(re.findall(r"--from-(?:literal|file)=([\w.]+)", rest))
    return found


def named(manifests: list[Manifest], kind: str) -> set[str]:
    return {manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == kind}


def test_secrets_are_ones_that_the_guide_creates(manifests: list[Manifest]) -> None:
    created = secrets_in_the_guide()
    for node in walk(manifests):
        if reference := node.get("secretKeyRef"):
            assert reference["key"] in created[reference["name"]]
        if isinstance(volume := node.get("secret"), dict):
            assert {item["key"] for item in volume["items"]} <= created[volume["secretName"]]
    assert not named(manifests, "Secret"), "a secret in a repository is none"


def test_config_maps_and_claims_exist(manifests: list[Manifest]) -> None:
    for node in walk(manifests):
        for field in ("configMapRef", "configMapKeyRef", "configMap"):
            if isinstance(reference := node.get(field), dict):
                assert reference["name"] in named(manifests, "ConfigMap")
        if claim := node.get("persistentVolumeClaim"):
            assert claim["claimName"] in named(manifests, "PersistentVolumeClaim")


def test_mounts_have_volumes_and_volumes_are_mounted(manifests: list[Manifest], pods: list[Pod]) -> None:
    for pod in pods:
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
        if pod.role == "redis":
            volumes |= {"data"}  # by claim template
        mounted = {mount["name"] for c in pod.containers for mount in c.get("volumeMounts", [])}
        assert mounted == volumes, pod.role


def test_budgets_and_monitors_select_the_pods_they_are_for(manifests: list[Manifest], pods: list[Pod]) -> None:
    for manifest in manifests:
        if manifest["kind"] == "PodDisruptionBudget":
            chosen = {pod.role for pod in pods if selects(manifest["spec"]["selector"], pod.labels)}
            assert chosen == {manifest["metadata"]["name"].removeprefix("starcoder-").removesuffix("s")}
        if manifest["kind"] == "PodMonitor":
            chosen_pods = [pod for pod in pods if selects(manifest["spec"]["selector"], pod.labels)]
            assert {pod.role for pod in chosen_pods} == {"head", "worker"}
            ports = {name for pod in chosen_pods for name in pod.ports()}
            scraped = {endpoint["port"] for endpoint in manifest["spec"]["podMetricsEndpoints"]}
            assert scraped <= ports
            assert {name for name in ports if name.endswith("metrics")} == scraped
            labels = {label for pod in chosen_pods for label in pod.labels}
            assert set(manifest["spec"]["podTargetLabels"]) <= labels


def test_policies_select_pods(manifests: list[Manifest], pods: list[Pod]) -> None:
    for manifest in manifests:
        if manifest["kind"] == "NetworkPolicy" and manifest["metadata"]["name"] != "gateway":
            selector = manifest["spec"]["podSelector"]
            assert any(selects(selector, pod.labels) for pod in pods), manifest["metadata"]["name"]


def test_workers_spread_over_nodes(pods: list[Pod]) -> None:
    worker = next(pod for pod in pods if pod.role == "worker")
    constraints = worker.spec["topologySpreadConstraints"]
    assert {c["topologyKey"] for c in constraints} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    for constraint in constraints:
        assert selects(constraint["labelSelector"], worker.labels)


def test_services_reach_pods(manifests: list[Manifest], pods: list[Pod]) -> None:
    for service in (m for m in manifests if m["kind"] == "Service"):
        backends = [p for p in pods if selects({"matchLabels": service["spec"]["selector"]}, p.labels)]
        assert backends
        for port in service["spec"]["ports"]:
            assert all(port["targetPort"] in pod.ports() for pod in backends)


@pytest.mark.parametrize("overlay", ["prod", "prod-tp4"])
def test_redis_is_where_the_cluster_looks_for_it(rayservice: Manifest, manifests: list[Manifest]) -> None:
    options = rayservice["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    host, port = options["redisAddress"].split(":")
    service = next(m for m in manifests if m["kind"] == "Service" and m["metadata"]["name"] == host)
    assert int(port) in {p["port"] for p in service["spec"]["ports"]}
    head = next(m for m in manifests if m["metadata"]["name"] == "starcoder-head")
    assert head["spec"]["minAvailable"] == 0  # a head that comes back may be evicted


@pytest.mark.parametrize("overlay", ["dev"])
def test_without_fault_tolerance_nobody_evicts_the_head(manifests: list[Manifest], rayservice: Manifest) -> None:
    assert "gcsFaultToleranceOptions" not in rayservice["spec"]["rayClusterConfig"]
    head = next(m for m in manifests if m["metadata"]["name"] == "starcoder-head")
    assert head["spec"]["minAvailable"] == 1


def test_the_route_leads_to_the_servers_service(composed: Callable[..., list[Manifest]]) -> None:
    manifests = composed("dev", "gateway")
    [gateway] = [m for m in manifests if m["kind"] == "Gateway"]
    [route] = [m for m in manifests if m["kind"] == "HTTPRoute"]
    [rayservice] = [m for m in manifests if m["kind"] == "RayService"]
    [parent] = route["spec"]["parentRefs"]
    assert parent["name"] == gateway["metadata"]["name"]
    assert parent["sectionName"] in {listener["name"] for listener in gateway["spec"]["listeners"]}
    for rule in route["spec"]["rules"]:
        for backend in rule["backendRefs"]:
            assert backend["port"] in services_of(rayservice)[backend["name"]].values()
    for listener in gateway["spec"]["listeners"]:
        for certificate in listener["tls"]["certificateRefs"]:
            assert certificate["name"] in OPERATORS_SECRETS


def test_the_port_that_serves_is_the_port_that_is_named(
    serve_config: dict[str, Any], pods: list[Pod], rayservice: Manifest
) -> None:
    port = serve_config["http_options"]["port"]
    for pod in pods:
        if pod.role in ("head", "worker"):
            assert pod.ports()["serve"] == port  # KubeRay's probes and Services go by this name


def test_the_cluster_is_what_kuberay_wants(rayservice: Manifest, pods: list[Pod]) -> None:
    """KubeRay's ValidateRayServiceSpec, as far as it concerns us."""
    import ray

    spec = rayservice["spec"]
    cluster = spec["rayClusterConfig"]
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["excludeHeadPodFromServeSvc"]
    assert len(rayservice["metadata"]["name"]) <= 47
    for group in cluster["workerGroupSpecs"]:
        assert 2 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    strategy = spec["upgradeStrategy"]
    if strategy["type"] == "NewClusterWithIncrementalUpgrade":
        options = strategy["clusterUpgradeOptions"]
        assert 0 < options["stepSizePercent"] <= options["maxSurgePercent"] <= 100
        assert options["intervalSeconds"] > 0
        assert options["gatewayClassName"]
    for pod in pods:
        if pod.role in ("head", "worker"):
            assert "restartPolicy" not in pod.spec  # KubeRay's: Never, with this autoscaler
            ray_container = pod.spec["containers"][0]
            assert ray_container["name"].startswith("ray-")
            assert "livenessProbe" not in ray_container
            assert "readinessProbe" not in ray_container


def test_pods_are_locked_down(pods: list[Pod]) -> None:
    for pod in pods:
        assert pod.spec["securityContext"]["runAsNonRoot"]
        assert pod.spec["securityContext"]["runAsUser"] >= 10000
        assert pod.spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod.spec["enableServiceLinks"]
        assert pod.spec["automountServiceAccountToken"] is (pod.role == "head")
        for forbidden in ("hostNetwork", "hostPID", "hostIPC"):
            assert forbidden not in pod.spec
        assert not any("hostPath" in volume for volume in pod.spec.get("volumes", []))
        for container in pod.containers:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            assert context["runAsNonRoot"] is True
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][kind]), (pod.role, container["name"])


def test_ray_can_write_where_it_must(pods: list[Pod]) -> None:
    for pod in pods:
        if pod.role in ("head", "worker"):
            mounts = {m["mountPath"]: m["name"] for m in pod.spec["containers"][0]["volumeMounts"]}
            volumes = {v["name"]: v for v in pod.spec["volumes"]}
            assert "emptyDir" in volumes[mounts["/tmp"]]
            shared = volumes[mounts["/dev/shm"]]["emptyDir"]
            assert shared["medium"] == "Memory"
            assert shared["sizeLimit"]


def test_gpus_are_asked_for_where_there_are_some(pods: list[Pod], serve_config: dict[str, Any]) -> None:
    settings = serve_config["applications"][0]["args"]
    spec = next(pod for pod in pods if pod.role == "worker").spec
    if settings["device"] == "cuda":
        assert spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]
    else:
        assert "nodeSelector" not in spec


def test_images_are_pinned_and_one(manifests: list[Manifest]) -> None:
    images = {c["image"] for pod in pods_of(manifests) for c in pod.containers}
    assert all(re.fullmatch(r"[\w./-]+:[\w.-]+", image) and not image.endswith(":latest") for image in images)
    assert len([image for image in images if "starcoder" in image]) == 1
