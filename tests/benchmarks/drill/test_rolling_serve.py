"""A rollout deploys the same application with another setting."""

from __future__ import annotations

from typing import Any

import pytest
from ray import serve

from benchmarks.drill.rolling_serve import Releases
from deployments import app
from deployments.settings import Settings


def test_each_release_differs_from_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    deployed: list[tuple[str, int]] = []

    def run_many(targets: list[Any], wait_for_applications_running: bool) -> None:
        assert not wait_for_applications_running
        deployed.extend((target.name, target.target) for target in targets)

    monkeypatch.setattr(app, "build", lambda settings: settings.max_queued_requests)
    monkeypatch.setattr(serve, "run_many", run_many)
    releases = Releases()
    releases.next()
    assert not deployed
    assert releases.first(Settings(model="pico", max_queued_requests=10)) == 10  # type: ignore[comparison-overlap]
    releases.next()
    releases.next()
    assert deployed == [(app.APP_NAME, 11), (app.APP_NAME, 12)]
