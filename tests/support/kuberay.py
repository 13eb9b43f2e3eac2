"""What KubeRay 1.7 makes of our manifests, as far as references between objects depend on it.

From its source: controllers/ray/common/pod.go (labels, volumes, the autoscaler's container), common/service.go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod's role, what selectors see of it, and its specification."""

    role: str
    labels: dict[str, str]
    spec: dict[str, Any]
    namespace: str = "starcoder"

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All of them, sidecars and those that run before the others included."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def ports(self) -> dict[str, int]:
        return {p["name"]: p["containerPort"] for c in self.containers for p in c.get("ports", [])}


def pods_of(manifests: list[Manifest]) -> list[Pod]:
    """A pod of every kind that these manifests bring about."""
    found: list[Pod] = []
    for manifest in manifests:
        match manifest["kind"]:
            case "RayService":
                found += _ray_pods(manifest)
            case "Job" | "StatefulSet" | "Deployment":
                template = manifest["spec"]["template"]
                labels = template["metadata"]["labels"]
                found.append(Pod(labels["app.kubernetes.io/component"], labels, template["spec"]))
    return found


def _ray_pods(rayservice: Manifest) -> Iterator[Pod]:
    cluster = rayservice["spec"]["rayClusterConfig"]
    name = f"{rayservice['metadata']['name']}-abcde"
    head = cluster["headGroupSpec"]["template"]
    spec = dict(head["spec"])
    if cluster.get("enableInTreeAutoscaling"):
        options = {k: v for k, v in cluster["autoscalerOptions"].items() if k in _CONTAINER}
        image = spec["containers"][0]["image"]
        spec["containers"] = [*spec["containers"], {"name": "autoscaler", "image": image, **options}]
    yield Pod("head", _labels(head, name, "head", "headgroup"), spec)
    for group in cluster["workerGroupSpecs"]:
        template = group["template"]
        yield Pod("worker", _labels(template, name, "worker", group["groupName"]), template["spec"])


_CONTAINER = {"resources", "securityContext", "volumeMounts", "env", "image", "imagePullPolicy"}


def _labels(template: Manifest, cluster: str, node_type: str, group: str) -> dict[str, str]:
    own = {
        "ray.io/is-ray-node": "yes",
        "ray.io/cluster": cluster,
        "ray.io/node-type": node_type,
        "ray.io/group": group,
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/created-by": "kuberay-operator",
        "ray.io/serve": "true" if node_type == "worker" else "false",
    }
    fixed = {"ray.io/cluster", "ray.io/node-type", "ray.io/group", "ray.io/serve"}
    return own | {k: v for k, v in template["metadata"]["labels"].items() if k not in fixed}


def services_of(rayservice: Manifest) -> dict[str, dict[str, int]]:
    """Services with a name that stays: {name: {port name: port}}. With incremental upgrades only the head's does."""
    name = rayservice["metadata"]["name"]
    container = rayservice["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    services = {f"{name}-head-svc": ports}
    if rayservice["spec"]["upgradeStrategy"]["type"] != "NewClusterWithIncrementalUpgrade":
        services[f"{name}-serve-svc"] = {k: v for k, v in ports.items() if k == "serve" or k.startswith("serve-")}
    return services
