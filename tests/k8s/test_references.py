"""Whatever one object names of another exists, and pods are locked down."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import build_parser
from deployments.cluster.proxy_settings import ProxySettings
from deployments.command import admin_secret
from deployments.limits import ApiLimits
from tests.k8s.conftest import ROOT
from tests.support.kuberay import Pod, pods_of, services_of
from tests.support.kustomize import Manifest
from tests.support.network_policy import selects

OF_EVERY_NAMESPACE = {"kube-root-ca.crt"}
"""ConfigMaps that Kubernetes makes."""

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
        found[name] = set(re.findall(r"--from-(?:literal|file)=([\w.-]+)", rest))
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
    filled = [m for m in manifests if m["kind"] == "Secret" and {"data", "stringData"} & set(m)]
    assert not filled, "a secret in a repository is none"


def test_config_maps_and_claims_exist(manifests: list[Manifest]) -> None:
    for node in walk(manifests):
        for field in ("configMapRef", "configMapKeyRef", "configMap"):
            if isinstance(reference := node.get(field), dict):
                assert reference["name"] in named(manifests, "ConfigMap") | OF_EVERY_NAMESPACE
        if claim := node.get("persistentVolumeClaim"):
            assert claim["claimName"] in named(manifests, "PersistentVolumeClaim")


def test_mounts_have_volumes_and_volumes_are_mounted(manifests: list[Manifest], pods: list[Pod]) -> None:
    for pod in pods:
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
        if pod.role in ("redis", "postgres"):
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


def test_the_database_is_where_the_guide_says(manifests: list[Manifest]) -> None:
    """Its URL is in a Secret, which the guide has an operator make; the name in it is the Service's."""
    [service] = [m for m in manifests if m["kind"] == "Service" and m["metadata"]["name"].endswith("postgres")]
    [port] = service["spec"]["ports"]
    host = f"@{service['metadata']['name']}:{port['port']}/starcoder"
    urls = re.findall(r"database-url=\"?(postgresql\+asyncpg://\S+)", (ROOT / "docs" / "deploy.md").read_text())
    assert any(host in url for url in urls)
    [server] = [m for m in manifests if m["kind"] == "StatefulSet" and m["metadata"]["name"].endswith("postgres")]
    given = {v["name"]: v.get("value") for v in server["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert (given["POSTGRES_USER"], given["POSTGRES_DB"]) == ("starcoder", "starcoder")


def test_the_job_may_fill_one_secret_and_no_more(manifests: list[Manifest], pods: list[Pod]) -> None:
    [role] = [m for m in manifests if m["kind"] == "Role"]
    [binding] = [m for m in manifests if m["kind"] == "RoleBinding"]
    [secret] = [m for m in manifests if m["kind"] == "Secret"]
    name = secret["metadata"]["name"]
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [name], "verbs": ["get", "patch"]}
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    [subject] = binding["subjects"]
    assert subject["namespace"] == secret["metadata"]["namespace"]
    job = next(pod for pod in pods if pod.role == "admin-key")
    assert job.spec["serviceAccountName"] == subject["name"]
    [container] = job.spec["containers"]
    assert container["args"] == ["--secret", name]
    assert container["command"][-1] == admin_secret.__name__
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    [volume] = [v for v in job.spec["volumes"] if v["name"] == mounts[str(admin_secret.ACCOUNT)]]
    files = {item["path"] for item in walk(volume["projected"]) if "path" in item}
    assert files == {"token", "ca.crt", "namespace"}
    # Nobody else has an account that may read it.
    assert [pod.role for pod in pods if "serviceAccountName" in pod.spec] == ["admin-key"]


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


def test_the_ingress_leads_to_the_servers_service(composed: Callable[..., list[Manifest]]) -> None:
    manifests = composed("dev", "ingress", "certificate")
    [ingress] = [m for m in manifests if m["kind"] == "Ingress"]
    [rayservice] = [m for m in manifests if m["kind"] == "RayService"]
    [certificate] = [m for m in manifests if m["kind"] == "Certificate"]
    [tls], [rule] = ingress["spec"]["tls"], ingress["spec"]["rules"]
    assert tls["secretName"] == certificate["spec"]["secretName"]
    assert tls["hosts"] == [rule["host"]]
    assert rule["host"] in certificate["spec"]["dnsNames"]
    [path] = rule["http"]["paths"]
    service = path["backend"]["service"]
    assert service["port"]["number"] in services_of(rayservice)[service["name"]].values()
    body = ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"]
    assert int(body.removesuffix("m")) << 20 == ApiLimits().max_body_bytes


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/metrics/x"])
def test_the_public_door_does_not_lead_to_metrics(composed: Callable[..., list[Manifest]], path: str) -> None:
    """Prometheus asks the pods, at ports of their own. The longest prefix that matches counts."""
    [route] = [m for m in composed("dev", "gateway") if m["kind"] == "HTTPRoute"]
    prefixes = {match["path"]["value"]: rule for rule in route["spec"]["rules"] for match in rule["matches"]}
    whole = [prefix for prefix in prefixes if prefix == "/" or f"{path}/".startswith(f"{prefix}/")]
    rule = prefixes[max(whole, key=len)]
    [rewrite] = [f["urlRewrite"]["path"] for f in rule.get("filters", [])]
    assert rewrite["replaceFullPath"] == "/not-found"


def test_a_certificate_that_is_renewed_is_where_it_is_looked_for(composed: Callable[..., list[Manifest]]) -> None:
    manifests = composed("dev", "certificate", "tls")
    [certificate] = [m for m in manifests if m["kind"] == "Certificate"]
    assert certificate["spec"]["secretName"] in OPERATORS_SECRETS
    assert "starcoder-serve-svc.starcoder.svc" in certificate["spec"]["dnsNames"]
    worker = next(pod for pod in pods_of(manifests) if pod.role == "worker")
    container = worker.spec["containers"][0]
    names = [variable["name"] for variable in container["env"]]
    assert len(names) == len(set(names))
    given = {variable["name"]: variable.get("value") for variable in container["env"]}
    settings = ProxySettings(ssl_certfile=given["STARCODER_SSL_CERTFILE"], ssl_keyfile=given["STARCODER_SSL_KEYFILE"])
    assert settings.certificate is not None
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    [volume] = [v for v in worker.spec["volumes"] if v["name"] == "tls"]
    assert volume["secret"]["secretName"] == certificate["spec"]["secretName"]
    files = {item["key"]: Path(mounts["tls"]) / item["path"] for item in volume["secret"]["items"]}
    assert files == {"tls.crt": settings.certificate.chain, "tls.key": settings.certificate.key}
    # A volume of single files (subPath) would never be renewed.
    assert not any("subPath" in mount for mount in container["volumeMounts"])


def test_kuberays_probe_asks_a_worker_with_tls_by_https(composed: Callable[..., list[Manifest]]) -> None:
    """Its own would ask by plain HTTP, and no worker would get ready; the head serves nobody and speaks plain HTTP."""
    pods = pods_of(composed("dev", "tls"))
    worker, head = (next(pod for pod in pods if pod.role == role) for role in ("worker", "head"))
    [_, _, script] = worker.spec["containers"][0]["readinessProbe"]["exec"]["command"]
    raylet, front = script.split("&&")
    assert "http://localhost:52365/api/local_raylet_healthz | grep success" in raylet
    assert f"https://localhost:{worker.ports()['serve']}/-/healthz | grep success" in front
    assert "readinessProbe" not in head.spec["containers"][0]
    assert not any("SSL" in variable["name"] for variable in head.spec["containers"][0]["env"])


def test_a_pod_is_not_evicted_for_its_journal(pods: list[Pod], serve_config: dict[str, Any]) -> None:
    """Every ingress process may end up in one pod; SQLite's log may take as much as its file."""
    worker = next(pod for pod in pods if pod.role == "worker")
    given = {variable["name"]: variable.get("value") for variable in worker.spec["containers"][0]["env"]}
    processes = serve_config["applications"][0]["args"]["ingress_replicas"]
    [volume] = [v for v in worker.spec["volumes"] if v["name"] == "journal"]
    assert volume["emptyDir"] == {"sizeLimit": "2Gi"}
    assert processes * int(given["STARCODER_TEAMS__JOURNAL_BYTES"]) * 2 < 2 << 30


def test_usage_outlives_pods_where_it_is_asked_to(composed: Callable[..., list[Manifest]]) -> None:
    for components, kind in (([], "emptyDir"), (["journal"], "persistentVolumeClaim")):
        manifests = composed("dev", *components)
        worker = next(pod for pod in pods_of(manifests) if pod.role == "worker")
        container = worker.spec["containers"][0]
        given = {variable["name"]: variable.get("value") for variable in container["env"]}
        place = Path(given["STARCODER_TEAMS__JOURNAL_DIRECTORY"])
        mounts = {Path(mount["mountPath"]): mount["name"] for mount in container["volumeMounts"]}
        [volume] = [v for v in worker.spec["volumes"] if v["name"] == mounts[place.parent]]
        assert kind in volume
        if components:
            [claim] = [m for m in manifests if m["kind"] == "PersistentVolumeClaim"]
            assert claim["metadata"]["name"] == volume[kind]["claimName"]
            assert claim["spec"]["accessModes"] == ["ReadWriteMany"]  # workers of several nodes


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


def test_generated_code_runs_without_the_key(composed: Callable[..., list[Manifest]]) -> None:
    manifests = composed("dev", "quality")
    pods = pods_of(manifests)
    test_pods_are_locked_down(pods)
    test_mounts_have_volumes_and_volumes_are_mounted(manifests, pods)
    test_secrets_are_ones_that_the_guide_creates(manifests)
    [job] = [pod for pod in pods if pod.role == "quality"]
    [sample], [score] = job.spec["initContainers"], job.spec["containers"]
    assert [one["name"] for one in sample["env"]] == ["HOME", "STARCODER_URL", "STARCODER_API_KEY"]
    assert [one["name"] for one in score["env"]] == ["HOME"]
    for container in (sample, score):
        python, _, _, package, *arguments = [*container["command"], *container["args"]]
        assert (python, package) == ("python", "benchmarks")
        assert build_parser("quality").parse_args(arguments).sampling_only is (container is sample)
    assert sample["command"] == score["command"]
    assert {container["image"] for container in (sample, score)} == {"starcoder-serve:0.1.0-evaluation"}


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
