"""Each sandbox that this machine allows; one at least has to be allowed."""

from __future__ import annotations

import pytest

from benchmarks.quality.sandbox.choice import FINDERS, choose
from benchmarks.quality.sandbox.judge import Sandbox, SandboxError


@pytest.fixture(scope="session", params=list(FINDERS))
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    choose()
    try:
        return choose(request.param)
    except SandboxError as error:
        pytest.skip(str(error))
