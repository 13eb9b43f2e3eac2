"""`python -m tests.k8s.for_scanners OVERLAY`: its objects, with the pods that KubeRay makes as plain Pods.

Scanners of manifests know no RayService, so that its pod templates would go unseen.
"""

from __future__ import annotations

import sys

import yaml

from tests.k8s.conftest import K8S
from tests.support.kuberay import pods_of
from tests.support.kustomize import render


def main(overlay: str) -> None:
    manifests = render(K8S / "overlays" / overlay)
    for pod in pods_of(manifests):
        if pod.role in ("head", "worker"):
            metadata = {"name": pod.role, "namespace": pod.namespace, "labels": pod.labels}
            manifests.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec})
    yaml.safe_dump_all(manifests, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
