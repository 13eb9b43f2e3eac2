"""The router of the drill is the product's until it is broken, and then for requests for text alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.serve.request_router import PendingRequest

from benchmarks.drill import switch
from benchmarks.drill.stray_router import StrayRouter
from deployments.cluster.routing import PrefixRouter
from deployments.protocol import GenerationRequest
from model.request import SamplingParams

RANKS = [["the one that holds the prefix"], ["another one"]]
ASKED = GenerationRequest(request_id="r", prompts=[[1, 2, 3]], params=SamplingParams())


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StrayRouter:
    async def chosen(self: object, candidates: object, pending: object = None) -> Any:
        return RANKS

    monkeypatch.setattr(PrefixRouter, "choose_replicas", chosen)
    for name, value in switch.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    return StrayRouter.__new__(StrayRouter)


def pending(*arguments: object) -> PendingRequest:
    return PendingRequest(args=list(arguments), kwargs={}, metadata=None)  # type: ignore[arg-type]


async def test_only_a_broken_one_goes_astray(router: StrayRouter, tmp_path: Path) -> None:
    assert await router.choose_replicas([], pending(ASKED)) == RANKS
    switch.switch_in(tmp_path, "drafts").touch()
    assert await router.choose_replicas([], pending(ASKED)) == RANKS
    switch.switch_in(tmp_path, "router").touch()
    assert await router.choose_replicas([], pending(ASKED)) == RANKS[::-1]
    for other in (None, pending(), pending("a health check")):
        assert await router.choose_replicas([], other) == RANKS
