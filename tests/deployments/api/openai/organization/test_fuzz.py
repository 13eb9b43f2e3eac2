"""What an administrator could send, from the app's own OpenAPI document, over a real database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings

from deployments.command import cli
from deployments.ingress import create_app
from model.text.tokenizer import Tokenizer
from tests.support.documented_cases import Cases
from tests.support.fake_backend import FakeBackend
from tests.support.teams_server import database_below, teams_server
from tests.support.tokenizers import starcoder_rules

TOKENIZER = Tokenizer(starcoder_rules())
# Made in the test, not by every process that collects it: the cases of all operations take seconds.
API = schemathesis.pytest.from_fixture("documented_api")


@pytest.fixture(scope="module")
def documented_api() -> Any:
    return schemathesis.openapi.from_dict(create_app(backend=FakeBackend(TOKENIZER), tokenizer=TOKENIZER).openapi())


@pytest.fixture(scope="module")
def cases() -> Cases:
    return Cases()


@pytest.fixture(scope="module")
def administrator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """How to call the server: it has a team `a` with a key."""
    database = database_below(tmp_path_factory.mktemp("teams"))
    with pytest.MonkeyPatch.context() as patch, teams_server(database, TOKENIZER) as server:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *texts, **options: printed.append(str(texts[0])))
        for line in ("keys create --admin", "teams create a", "keys create --team a"):
            assert cli.main([*line.split(), "--teams.database", database]) == 0
        key = next(text for text in printed if text.startswith("sk-sc-"))
        patch.undo()
        with requests.Session() as session:  # one for all: each case would make its own, and look for proxies
            session.trust_env = False
            yield {"base_url": server.url, "headers": {"Authorization": f"Bearer {key}"}, "session": session}


@API.include(path_regex=r"^/v1/organization").parametrize()
@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
)
def test_anything_is_answered_as_documented(case: Any, cases: Cases, administrator: dict[str, Any]) -> None:
    if "project_id" in case.path_parameters and not case.path.endswith("/archive"):  # others need the team
        case.path_parameters["project_id"] = "a"
    cases.send(case, **administrator)
