"""Requests nobody thought of: from the app's own OpenAPI document, and from the schema's fields."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from schemathesis.python.asgi import ASGIClient

from deployments.api.common.context import ApiContext
from deployments.api.openai.completions import CompletionRequest, to_generation_request
from deployments.errors import InvalidRequestError
from deployments.ingress import create_app
from model.text.tokenizer import Tokenizer
from tests.support.documented_cases import CHECKS, Cases
from tests.support.fake_backend import FakeBackend
from tests.support.tokenizers import starcoder_rules


@pytest.fixture(scope="module")
def cases() -> Cases:
    return Cases()


@pytest.fixture(scope="module")
def documented_api() -> Any:
    tokenizer = Tokenizer(starcoder_rules())
    return schemathesis.openapi.from_asgi(
        "/openapi.json", create_app(backend=FakeBackend(tokenizer), tokenizer=tokenizer)
    )


@pytest.fixture(scope="module")
def client(documented_api: Any) -> Iterator[ASGIClient]:
    """One for all: each case would make its own, and look for proxies."""
    with ASGIClient(documented_api.app) as session:
        session.trust_env = False
        yield session


# Made in the test, not by every process that collects it: the cases of all operations take seconds.
API = schemathesis.pytest.from_fixture("documented_api")


# DeepSeek's paths are /v1/completions once more. What needs a database is tried with one, in openai/organization.
@API.exclude(path_regex=r"/beta/completions$|^/v1/organization").parametrize()
@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
)
def test_any_request_is_answered_as_documented(case: Any, cases: Cases, client: ASGIClient) -> None:
    cases.send(case, session=client)


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), strategy)


TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
BODIES = st.fixed_dictionaries(
    {"prompt": st.one_of(TEXT, st.lists(TEXT, max_size=3), st.lists(st.integers(-1, 1300), max_size=20))},
    optional={
        "suffix": optional(TEXT),
        "fim_mode": st.sampled_from(["auto", "psm", "spm"]),
        "max_tokens": optional(st.integers(0, 300)),
        "min_tokens": optional(st.integers(0, 20)),
        "n": optional(st.integers(1, 5)),
        "best_of": optional(st.integers(1, 200)),
        "temperature": optional(st.floats(0, 2)),
        "top_p": optional(st.floats(0, 1)),
        "top_k": optional(st.integers(-1, 10**6)),
        "seed": optional(st.integers(-(2**63), 2**63 - 1)),
        "logprobs": optional(st.integers(0, 25)),
        "echo": st.booleans(),
        "stop": optional(st.one_of(TEXT, st.lists(TEXT, max_size=20))),
        "logit_bias": optional(st.dictionaries(st.integers(0, 1300).map(str), st.floats(-100, 100), max_size=4)),
        "truncate_prompt_tokens": optional(st.integers(-1, 300)),
    },
)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(body=BODIES)
def test_what_is_accepted_is_safe_for_the_engine(
    tokenizer: Tokenizer, fake_backend: FakeBackend, body: dict[str, Any]
) -> None:
    """Whatever the fields say, the engine gets in-range ids that fit its window, or the client gets a reason."""
    api = ApiContext(fake_backend, tokenizer)
    try:
        request = asyncio.run(to_generation_request(CompletionRequest.model_validate(body), api))
    except (ValidationError, InvalidRequestError):
        return
    params = request.params
    assert 1 <= request.n <= request.best_of
    assert len(request.prompts) * request.best_of <= api.limits.max_fan_out
    for prompt in request.prompts:
        assert len(prompt) >= 1
        assert len(prompt) + params.max_tokens <= fake_backend.window
        assert all(0 <= token_id < tokenizer.vocab_size for token_id in prompt)
    wanted = body.get("max_tokens")
    assert params.min_tokens <= (16 if wanted is None else wanted)
    assert params.temperature == 0 or params.temperature >= 1e-4
    assert 0 < params.top_p <= 1
    assert 0 <= params.top_k <= tokenizer.vocab_size
    assert len(request.stop) <= api.limits.max_stop_strings
    assert "" not in request.stop
    seeds = [sequence.params.seed for sequence in request.sequences()]
    assert all(seed is None or 0 <= seed < 2**63 for seed in seeds)
    if params.seed is not None:
        assert len(set(seeds)) == request.best_of


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(body=BODIES, stream=st.booleans())
def test_sensible_requests_are_answered_as_documented(documented_api: Any, body: dict[str, Any], stream: bool) -> None:
    """Bodies of which most are accepted, where the document's own are mostly refused."""
    case = documented_api["/v1/completions"]["POST"].Case(
        body={**body, "stream": stream}, media_type="application/json"
    )
    case.call_and_validate(checks=CHECKS)
