"""Every overlay rendered, and the pods that KubeRay would make of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.kuberay import Pod, pods_of
from tests.support.kustomize import Manifest, render

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))


@cache
def _rendered(overlay: str) -> tuple[Manifest, ...]:
    return tuple(render(K8S / "overlays" / overlay))


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def manifests(overlay: str) -> list[Manifest]:
    return list(_rendered(overlay))


@pytest.fixture
def rayservice(manifests: list[Manifest]) -> Manifest:
    return next(manifest for manifest in manifests if manifest["kind"] == "RayService")


@pytest.fixture
def serve_config(rayservice: Manifest) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(rayservice["spec"]["serveConfigV2"])
    return config


@pytest.fixture
def pods(manifests: list[Manifest]) -> list[Pod]:
    return pods_of(manifests)


@pytest.fixture
def composed(tmp_path: Path) -> Callable[..., list[Manifest]]:
    """Render an overlay with more components, as an operator's own overlay would."""

    def compose(overlay: str, *components: str) -> list[Manifest]:
        directory = K8S / "overlays" / overlay
        content = {
            "namespace": "starcoder",
            "resources": [str(directory)],
            "components": [str(K8S / "components" / name) for name in components],
        }
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(content))
        return render(tmp_path)

    return compose
