"""The image's recipe, as far as it can be checked without building it."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.k8s.conftest import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    result = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (0, "")


def stages() -> dict[str, str]:
    parts = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, flags=re.M)[1:]
    return {parts[i + 1]: parts[i + 2] for i in range(0, len(parts), 3)}


def test_each_target_ends_as_nobody_special() -> None:
    for target in ("cpu", "cuda", "evaluation"):
        lines = [line for line in stages()[target].splitlines() if line and not line.startswith("#")]
        assert lines[-1] == "USER 10001:10001"
        assert f"COPY --from=build-{target} /opt/starcoder /opt/starcoder" in lines
    assert "--uid 10001" in DOCKERFILE


def test_the_user_is_the_one_that_pods_run_as() -> None:
    base = (ROOT / "k8s" / "base" / "rayservice.yaml").read_text()
    assert "runAsUser: 10001" in base
    assert "fsGroup: 10001" in base


def test_the_context_holds_what_is_installed_and_no_more() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {pattern.rstrip("*") for pattern in patterns} <= let_in
    assert {
        "pyproject.toml",
        "constraints.txt",
        project["project"]["readme"],
        *project["project"]["license-files"],
    } <= (let_in)
    for name in (".git", ".venv", "tests", "runs"):
        assert not any(fnmatch.fnmatch(name, pattern) for pattern in let_in)
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, flags=re.M):
        assert all(name == "." or name in let_in for name in source.split())


def test_python_is_one_that_the_project_supports() -> None:
    found = re.search(r"python:(\d+)\.(\d+)\.\d+-slim", DOCKERFILE)
    assert found
    assert (int(found[1]), int(found[2])) == (3, 11)


def test_what_kuberays_probe_needs_is_installed_and_pinned() -> None:
    """Its readiness probe of a worker runs `wget` in `bash`."""
    assert re.search(r"\bwget=\d", stages()["runtime"])


def test_the_manifests_use_tags_that_the_recipe_names() -> None:
    tags = set(re.findall(r"starcoder-serve:(\S+) \.", DOCKERFILE))
    used = set()
    for file in (ROOT / "k8s").rglob("kustomization.yaml"):
        used |= set(re.findall(r"newTag: ([\w.-]+)", file.read_text()))
    assert used == tags
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert all(tag.startswith(f"{version}-") for tag in tags)


def test_a_gpu_finds_its_kernels_compiled_and_a_compiler_for_the_rest() -> None:
    """Triton starts nowhere without a C compiler, and what it looks up is what the image's build has written."""
    pytest.importorskip("triton", reason="Triton has no build for this machine")
    from model.kernels import ahead_of_time, shipped_cache

    build, cuda = stages()["build-cuda"], stages()["cuda"]
    assert re.search(r"apt-get install .*\bgcc=.* libc6-dev=", cuda)
    module, name = re.findall(r"TRITON_CACHE_MANAGER=(\S+):(\w+)", cuda)[0]
    assert (module, name) == (shipped_cache.__name__, shipped_cache.ShippedCache.__name__)
    place = shipped_cache.DIRECTORY.relative_to(sys.prefix)
    assert f"TRITON_CACHE_DIR=/opt/starcoder/{place} " in build
    assert f"-m {ahead_of_time.__name__} ${{GPU_CAPABILITIES}}" in build
    [named] = re.findall(r'ARG GPU_CAPABILITIES="(.*)"', build)
    assert [round(float(c) * 10) for c in named.split()] == list(ahead_of_time.CAPABILITIES)
