"""How routes describe their answers and their failures, against what dialects send."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from deployments.api.openai.completions import DIALECT as OPENAI
from deployments.api.registry import dialects
from deployments.errors import EngineUnavailableError, InvalidRequestError, OverloadedError, ServeError
from deployments.ingress import create_app
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import FakeBackend

FAILURES = (
    InvalidRequestError("wrong", param="n"),
    OverloadedError("full", retry_after=1.0),
    EngineUnavailableError("dead"),
    ServeError("broken"),
)


@pytest.fixture(scope="module")
def document(tokenizer: Tokenizer) -> dict[str, Any]:
    return create_app(backend=FakeBackend(tokenizer), tokenizer=tokenizer).openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_answer_is_described_in_words_of_its_own(document: dict[str, Any]) -> None:
    names = {tag["name"] for tag in document["tags"]}
    for route, operation in operations(document):
        assert len(operation["tags"]) == 1, route
        assert names.issuperset(operation["tags"]), route
        assert operation["summary"], route
        for status, response in operation["responses"].items():
            assert response["description"] not in ("", "Successful Response", "Validation Error"), (route, status)


def test_failures_are_described_as_each_dialect_sends_them(document: dict[str, Any]) -> None:
    by_title = {dialect.title: dialect for dialect in dialects().values()}
    seen = set()
    for route, operation in operations(document):
        if operation["tags"] == ["Operations"]:
            continue
        dialect = by_title.get(operation["tags"][0], OPENAI)
        failures = {status: response for status, response in operation["responses"].items() if status[0] in "45"}
        for error in FAILURES:
            status, body = dialect.error_shape(error)
            described = failures.get(str(status)) or failures[f"{str(status)[0]}XX"]
            schema = described["content"]["application/json"]["schema"]
            assert "$ref" in schema, route
            Draft202012Validator({**schema, "components": document["components"]}).validate(body)
            known = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"]
            assert body.keys() <= known.keys(), route
            seen.add(dialect.title)
    assert {"OpenAI", "llama.cpp", "TGI", "Ollama", "Tabby"} <= seen
