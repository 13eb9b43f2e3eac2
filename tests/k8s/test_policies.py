"""Default deny, and exactly the flows that the program needs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.kuberay import Pod, pods_of
from tests.support.kustomize import Manifest
from tests.support.network_policy import Peer, allowed

PRODUCTION = ["prod", "prod-tp4"]

OPERATOR = Peer({"app.kubernetes.io/name": "kuberay-operator"}, "kuberay-system")
PROMETHEUS = Peer({"app.kubernetes.io/name": "prometheus"}, "monitoring")
CLIENT = Peer({"app": "editor"}, "team-a", {"starcoder-serve/client": "true"})
STRANGER = Peer({"app": "anything", "app.kubernetes.io/part-of": "starcoder"}, "team-b")
NEIGHBOUR = Peer({"app": "anything"}, "starcoder")
DNS = Peer({"k8s-app": "kube-dns"}, "kube-system")
API_SERVER = Peer(address="10.96.0.1")
HUB = Peer(address="203.0.113.10")
DATABASE = Peer(address="10.20.0.5")
INGRESS_CONTROLLER = Peer({"app.kubernetes.io/name": "traefik"}, "traefik")
GATEWAY = Peer({"gateway.networking.k8s.io/gateway-name": "starcoder-gateway"}, "starcoder")

DASHBOARD, CLIENT_SERVER, GCS, AGENT, SERVE = 8265, 10001, 6379, 52365, 8000
POSTGRES = 5432
RAY_PORTS = (DASHBOARD, CLIENT_SERVER, GCS, AGENT, SERVE, 8076, 8077, 34567)
"""The last ones stand for those that Ray draws."""


def policies_of(manifests: list[Manifest]) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy"]


def peer(pods: list[Pod], role: str) -> Peer:
    return Peer(next(pod for pod in pods if pod.role == role).labels)


@pytest.fixture
def policies(manifests: list[Manifest]) -> list[Manifest]:
    return policies_of(manifests)


@pytest.fixture
def head(pods: list[Pod]) -> Peer:
    return peer(pods, "head")


@pytest.fixture
def worker(pods: list[Pod]) -> Peer:
    return peer(pods, "worker")


def test_every_pod_is_denied_by_default(policies: list[Manifest]) -> None:
    [deny] = [policy["spec"] for policy in policies if policy["metadata"]["name"] == "default-deny"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert not allowed(policies, NEIGHBOUR, NEIGHBOUR, 80)
    assert not allowed(policies, NEIGHBOUR, HUB, 443)


def test_ray_nodes_reach_each_other_on_every_port(policies: list[Manifest], head: Peer, worker: Peer) -> None:
    for port in RAY_PORTS:
        for source, target in ((head, worker), (worker, head), (worker, worker)):
            assert allowed(policies, source, target, port)


def test_what_else_the_program_needs(policies: list[Manifest], pods: list[Pod], head: Peer, worker: Peer) -> None:
    for pod in pods:
        assert allowed(policies, Peer(pod.labels), DNS, 53, "UDP")
        assert allowed(policies, Peer(pod.labels), DNS, 53)
    assert allowed(policies, OPERATOR, head, DASHBOARD)
    assert allowed(policies, OPERATOR, head, SERVE)  # the health of the head's proxy
    assert allowed(policies, head, API_SERVER, 443)
    assert allowed(policies, head, API_SERVER, 6443)
    assert allowed(policies, CLIENT, worker, SERVE)


@pytest.mark.parametrize("who", [CLIENT, STRANGER, NEIGHBOUR, PROMETHEUS, GATEWAY, HUB])
def test_no_ray_port_is_reachable_from_outside(policies: list[Manifest], head: Peer, worker: Peer, who: Peer) -> None:
    for target in (head, worker):
        for port in RAY_PORTS:
            if port == SERVE and target is worker and who in (CLIENT, GATEWAY):
                continue
            assert not allowed(policies, who, target, port), (who, target, port)


def test_others_do_not_reach_the_server(policies: list[Manifest], head: Peer, worker: Peer) -> None:
    for who in (STRANGER, NEIGHBOUR):
        assert not allowed(policies, who, worker, SERVE)
    assert not allowed(policies, CLIENT, head, SERVE)


def test_engines_reach_nothing_else(policies: list[Manifest], head: Peer, worker: Peer) -> None:
    for target in (HUB, API_SERVER, CLIENT, NEIGHBOUR, PROMETHEUS):
        assert not allowed(policies, worker, target, 443)
    assert not allowed(policies, head, HUB, 443)


@pytest.mark.parametrize("overlay", PRODUCTION)
def test_the_metrics_ports_are_prometheus_alone(policies: list[Manifest], pods: list[Pod]) -> None:
    for pod in pods:
        for name, port in pod.ports().items():
            if name.endswith("metrics"):
                assert allowed(policies, PROMETHEUS, Peer(pod.labels), port), name
                assert not allowed(policies, CLIENT, Peer(pod.labels), port), name
                assert not allowed(policies, Peer({}, "monitoring"), Peer(pod.labels), port), name


@pytest.mark.parametrize("overlay", PRODUCTION)
def test_redis_is_the_heads_alone(policies: list[Manifest], pods: list[Pod], head: Peer, worker: Peer) -> None:
    redis = peer(pods, "redis")
    assert allowed(policies, head, redis, 6379)
    cleanup = Peer({**head.labels, "ray.io/node-type": "redis-cleanup"})
    assert allowed(policies, cleanup, redis, 6379)
    for who in (worker, CLIENT, NEIGHBOUR, GATEWAY):
        assert not allowed(policies, who, redis, 6379)


def test_the_database_is_the_servers_alone(policies: list[Manifest], pods: list[Pod], head: Peer, worker: Peer) -> None:
    postgres, job = peer(pods, "postgres"), peer(pods, "admin-key")
    for who in (head, worker, job):
        assert allowed(policies, who, postgres, POSTGRES)
        assert not allowed(policies, postgres, who, SERVE)
        assert not allowed(policies, who, DATABASE, POSTGRES)
    for stranger in (CLIENT, STRANGER, NEIGHBOUR, GATEWAY, PROMETHEUS, OPERATOR):
        assert not allowed(policies, stranger, postgres, POSTGRES)
    assert not allowed(policies, postgres, HUB, 443)


def test_a_database_elsewhere_is_reached_with_its_component(composed: Callable[..., list[Manifest]]) -> None:
    manifests = composed("dev", "external-database")
    policies, pods = policies_of(manifests), pods_of(manifests)
    for role in ("head", "worker", "admin-key"):
        assert allowed(policies, peer(pods, role), DATABASE, POSTGRES)
        assert not allowed(policies, peer(pods, role), HUB, POSTGRES)
        assert not allowed(policies, DATABASE, peer(pods, role), POSTGRES)


def test_the_job_of_the_first_key_reaches_the_api_server_and_nothing_else(
    policies: list[Manifest], pods: list[Pod], head: Peer, worker: Peer
) -> None:
    job = peer(pods, "admin-key")
    assert allowed(policies, job, API_SERVER, 443)
    assert not allowed(policies, job, HUB, 443)
    for target in (head, worker):
        assert not allowed(policies, job, target, SERVE)
        assert not allowed(policies, target, job, SERVE)


@pytest.mark.parametrize("overlay", PRODUCTION)
def test_the_download_reaches_the_hub_and_nothing_private(policies: list[Manifest], pods: list[Pod]) -> None:
    job = peer(pods, "weights")
    assert allowed(policies, job, HUB, 443)
    assert not allowed(policies, job, API_SERVER, 443)
    assert not allowed(policies, job, Peer(address="169.254.169.254"), 80)  # cloud metadata: credentials
    for pod in pods:
        assert not allowed(policies, job, Peer(pod.labels), 6379)


@pytest.mark.parametrize(("overlay", "components"), [("dev", ["gateway"]), ("dev", ["incremental-upgrade"])])
def test_a_gateway_reaches_the_workers_and_is_reached(
    composed: Callable[..., list[Manifest]], overlay: str, components: list[str]
) -> None:
    manifests = composed(overlay, *components)
    policies, pods = policies_of(manifests), pods_of(manifests)
    worker, head = peer(pods, "worker"), peer(pods, "head")
    assert allowed(policies, GATEWAY, worker, SERVE)
    assert not allowed(policies, GATEWAY, head, SERVE)
    assert not allowed(policies, GATEWAY, worker, GCS)
    for port in (80, 443):
        assert allowed(policies, HUB, GATEWAY, port)
    assert allowed(policies, GATEWAY, Peer({"app": "istiod"}, "istio-system"), 15012)
    assert not allowed(policies, GATEWAY, HUB, 443)


def test_an_ingress_controller_reaches_the_workers_with_its_component(
    composed: Callable[..., list[Manifest]],
) -> None:
    for components, reachable in (([], False), (["ingress"], True)):
        manifests = composed("dev", *components)
        policies, pods = policies_of(manifests), pods_of(manifests)
        assert allowed(policies, INGRESS_CONTROLLER, peer(pods, "worker"), SERVE) is reachable
        assert not allowed(policies, INGRESS_CONTROLLER, peer(pods, "head"), SERVE)
        assert not allowed(policies, INGRESS_CONTROLLER, peer(pods, "worker"), GCS)
        assert not allowed(policies, Peer({"app": "other"}, "traefik"), peer(pods, "worker"), SERVE)


def test_the_job_that_runs_generated_code_reaches_the_service_and_nothing_else(
    composed: Callable[..., list[Manifest]],
) -> None:
    manifests = composed("dev", "quality")
    policies, pods = policies_of(manifests), pods_of(manifests)
    job, worker = peer(pods, "quality"), peer(pods, "worker")
    assert allowed(policies, job, worker, SERVE)
    assert allowed(policies, job, DNS, 53, "UDP")
    for target, port in ((worker, GCS), (peer(pods, "head"), SERVE), (peer(pods, "postgres"), POSTGRES)):
        assert not allowed(policies, job, target, port)
    for target in (HUB, API_SERVER, DATABASE, CLIENT, Peer(address="169.254.169.254")):
        for port in (80, 443):
            assert not allowed(policies, job, target, port)


def test_traces_leave_only_with_their_component(composed: Callable[..., list[Manifest]]) -> None:
    collector = Peer({"app.kubernetes.io/name": "opentelemetry-collector"}, "monitoring")
    for components, reachable in (([], False), (["traces"], True)):
        manifests = composed("dev", *components)
        worker = peer(pods_of(manifests), "worker")
        assert allowed(policies_of(manifests), worker, collector, 4318) is reachable
        assert not allowed(policies_of(manifests), worker, PROMETHEUS, 4318)
