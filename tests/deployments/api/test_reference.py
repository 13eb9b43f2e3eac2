"""The reference: its order, and its examples, each of which is run in each language."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import httpx
import pytest

from deployments.api.common.examples import HERE, SERVED_MODEL, TITLED
from deployments.api.common.section import FIRST, LAST
from deployments.api.registry import dialects
from deployments.ingress import create_app
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import ANSWER, MODEL, FakeBackend
from tests.support.http_server import serving
from tests.support.programs import program
from tests.support.samples import KEY, Recorder, Sample, samples_of, sent_by_python

ADMINISTRATION = "/v1/organization/"


@pytest.fixture(scope="module")
def document(tokenizer: Tokenizer) -> dict[str, Any]:
    return create_app(backend=FakeBackend(tokenizer), tokenizer=tokenizer).openapi()


@pytest.fixture(scope="module")
def samples(document: dict[str, Any]) -> list[Sample]:
    return list(samples_of(document))


def test_the_first_thing_first_and_administration_last(document: dict[str, Any]) -> None:
    names = [tag["name"] for tag in document["tags"]]
    assert names[: len(FIRST)] == [section.name for section in FIRST]
    assert names[-len(LAST) :] == [section.name for section in LAST]
    between = names[len(FIRST) : -len(LAST)]
    assert between == sorted(between, key=str.lower)
    assert set(between) < {dialect.title for dialect in dialects().values()}
    assert all(tag["description"] for tag in document["tags"])
    paths = list(document["paths"])
    assert paths[0] == "/v1/completions"
    tags = [operation["tags"] for methods in document["paths"].values() for operation in methods.values()]
    assert [names.index(tag) for (tag,) in tags] == sorted(names.index(tag) for (tag,) in tags)


def test_every_route_has_an_example_in_every_language(document: dict[str, Any], samples: list[Sample]) -> None:
    operations = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert {sample.operation for sample in samples} == operations
    assert all(list(sample.sources) == ["curl", "Python", "JavaScript"] for sample in samples)
    assert TITLED not in str(document)


async def test_every_example_is_answered(
    new_client: httpx.AsyncClient, fake_backend: FakeBackend, samples: list[Sample]
) -> None:
    """Administrators' are in their own room, which has a database."""
    fake_backend.window = 4096
    texts = {}
    for sample in samples:
        if ADMINISTRATION in sample.operation:
            continue
        sent = sent_by_python(sample.sources["Python"].replace(SERVED_MODEL, MODEL))
        answer = await new_client.request(sent.method, sent.target, json=sent.body)
        assert answer.is_success, (sample.operation, sample.title, answer.text)
        wants_json = "answer.json()" in sample.sources["Python"]
        assert wants_json == answer.headers.get("content-type", "").startswith("application/json"), sample.operation
        texts[sample.operation, sample.title] = answer.text
    assert ANSWER.split("(")[0] in texts["POST /v1/completions", "Continue a prompt"]


def test_every_language_sends_the_same(samples: list[Sample]) -> None:
    node, bash = program("node", "nodejs"), program("bash")
    expected = [sent_by_python(sample.sources["Python"]) for sample in samples]
    assert {sent.authorization for sent in expected} == {None, f"Bearer {KEY}"}
    assert [sent.target for sent in expected if sent.authorization is None] == ["/health", "/health/live", "/version"]
    programs = {
        "curl": ([bash, "-ec"], "\n".join(sample.sources["curl"] for sample in samples)),
        "JavaScript": (
            [node, "--input-type=module", "-e"],
            "\n".join(f"await (async () => {{ {sample.sources['JavaScript']} }})();" for sample in samples),
        ),
    }
    for language, (command, text) in programs.items():
        recorder = Recorder()
        with serving(recorder) as url:
            result = subprocess.run(
                [*command, text.replace(HERE, url)],
                env={**os.environ, "STARCODER_API_KEY": KEY},
                capture_output=True,
                text=True,
                timeout=300,
            )
        assert result.returncode == 0, result.stderr[-2000:]
        assert recorder.sent == expected, language
