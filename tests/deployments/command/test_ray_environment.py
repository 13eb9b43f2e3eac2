"""What Ray is told by its environment, which says nothing of names that it does not know."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from deployments.cluster import proxy
from deployments.command.local import _RAY_ENVIRONMENT, _RAY_METRICS
from deployments.settings import Settings

OURS = {**_RAY_ENVIRONMENT, **_RAY_METRICS, **proxy.environment(Settings())}


@pytest.fixture(scope="module")
def serve_reads() -> str:
    """Serve's source, as far as it reads its environment."""
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    return "".join(file.read_text() for file in (Path(spec.origin).parent / "serve/_private").glob("constant*.py"))


@pytest.mark.parametrize("name", sorted(name for name in OURS if name.startswith("RAY_SERVE_")))
def test_serve_knows_it(serve_reads: str, name: str) -> None:
    assert f'"{name}"' in serve_reads


def test_a_proxy_has_as_long_to_start_as_the_start_waits_for_it(serve_reads: str) -> None:
    """By itself Serve kills one after five seconds, and the command fails with it: a busy machine needs longer."""
    assert "HTTP_PROXY_TIMEOUT = 60" in serve_reads
    assert float(OURS["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"]) == 60
