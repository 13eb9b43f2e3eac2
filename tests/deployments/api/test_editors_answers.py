"""What Ollama's, Tabby's, Mistral's and DeepSeek's routes make of requests and of deltas, field by field."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from deployments.api import mistral_fim, ollama, tabby
from deployments.api.common.context import ApiContext
from deployments.api.completions_path import _dialect
from deployments.errors import (
    EngineUnavailableError,
    ModelNotFoundError,
)
from deployments.health import HealthReport
from deployments.protocol import Delta, GenerationRequest, ModelInfo
from deployments.teams.principal import Principal
from deployments.teams.records import Key, Team
from model.request import SamplingParams
from model.text.tokenizer import Tokenizer
from monitoring.version import package_version
from tests.support.fake_backend import ANSWER, MODEL, WINDOW, FakeBackend
from tests.support.scripted_backend import Scripted
from tests.support.tokenizers import starcoder_rules

SECOND = 1_000_000_000


def request_of(*prompt: int) -> GenerationRequest:
    return GenerationRequest(request_id="r", prompts=[[*prompt]], params=SamplingParams(max_tokens=9))


@pytest.fixture
def api(tokenizer: Tokenizer) -> ApiContext:
    return ApiContext(FakeBackend(tokenizer), tokenizer)


# Ollama


async def test_the_statistics_of_a_stream_part_at_its_first_text(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([2, 3, 7])
    monkeypatch.setattr(ollama, "time", SimpleNamespace(monotonic_ns=lambda: next(times) * SECOND))
    deltas = [
        Delta(index=0, text="", token_ids=[21]),
        Delta(index=0, text="a", token_ids=[22, 23]),
        Delta(index=0, text="", token_ids=[24], finish_reason="stop", ended_by="line"),
    ]
    api = ApiContext(Scripted(tokenizer, *([delta] for delta in deltas)), tokenizer)
    writer = ollama.OllamaWriter(request_of(11, 12, 13), "m:latest", SECOND)
    said = [json.loads(line) async for line in writer.to_lines(api)]
    now = datetime.now(UTC)
    for line in said:
        assert abs(datetime.fromisoformat(line.pop("created_at")) - now) < timedelta(days=1)
    assert said == [
        {"model": "m:latest", "response": "a", "done": False},
        {
            "model": "m:latest",
            "response": "",
            "done": True,
            "done_reason": "stop",
            "ended_by": "line",
            "total_duration": 6 * SECOND,
            "load_duration": 0,
            "prompt_eval_count": 3,
            "prompt_eval_duration": SECOND,
            "eval_count": 4,
            "eval_duration": 5 * SECOND,
        },
    ]


@pytest.mark.parametrize(("first_s", "prompt_s"), [(0.0, 0), (2.0, 2), (9.0, 4)])
def test_the_first_token_is_never_later_than_the_answer(
    monkeypatch: pytest.MonkeyPatch, first_s: float, prompt_s: int
) -> None:
    """It is another machine's clock that told it."""
    monkeypatch.setattr(ollama, "time", SimpleNamespace(monotonic_ns=lambda: 5 * SECOND))
    delta = Delta(index=0, token_ids=[1], finish_reason="length", first_token_seconds=first_s)
    answer = ollama.OllamaWriter(request_of(11), "m", SECOND).to_response(delta)
    assert (answer["prompt_eval_duration"], answer["eval_duration"]) == (prompt_s * SECOND, (4 - prompt_s) * SECOND)
    assert "ended_by" not in answer


def test_ollama_says_nothing_of_what_was_given_up() -> None:
    with pytest.raises(EngineUnavailableError, match="gave up"):
        ollama.OllamaWriter(request_of(11), "m", 0).to_response(Delta(index=0, finish_reason="abort"))


async def test_a_name_may_have_the_tag(api: ApiContext, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (MODEL, MODEL + ":latest"):
        assert (await ollama.named_model(api, name)).id == MODEL
    with pytest.raises(ModelNotFoundError) as refused:
        await ollama.named_model(api, "llama3:latest")
    assert refused.value.message == f"model 'llama3:latest' not found; this server has '{MODEL}'"
    api.known_model = ModelInfo(id="own:latest", max_model_len=9, created=1)
    assert (await ollama.named_model(api, "own:latest")).id == "own:latest"
    with pytest.raises(ModelNotFoundError):
        await ollama.named_model(api, "own")


async def test_what_ollama_asks_of_the_engine(api: ApiContext) -> None:
    async def asked(options: Any, **body: Any) -> GenerationRequest:
        fields = {"model": MODEL, "prompt": "x", "options": options, **body}
        return await ollama.to_generation_request(ollama.OllamaRequest.model_validate(fields), api)

    for seed, wanted in ((-1, None), (0, 0), (7, 7)):
        assert (await asked({"seed": seed})).params.seed == wanted
    request = await asked({})
    left = WINDOW - len(request.prompts[0])
    for num_predict, most in ((-2, left), (-1, left), (0, left), (1, 1), (9, 9)):
        assert (await asked({"num_predict": num_predict})).params.max_tokens == most
    assert request.rules is None
    for body, ruled in (({"suffix": "y"}, True), ({"suffix": ""}, True), ({"suffix": "", "raw": True}, False)):
        assert ((await asked({}, **body)).rules is not None) == ruled
    assert (await asked({"completion_mode": "raw"}, suffix="y")).rules is None
    assert (await asked({"stop": ["end"]})).stop == ("end",)


async def test_what_ollama_says_of_the_model(new_client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    since = datetime.fromtimestamp(1_700_000_000, UTC).isoformat()
    details = {
        "parent_model": "",
        "format": "safetensors",
        "family": "starcoder",
        "families": ["starcoder"],
        "parameter_size": "",
        "quantization_level": "float32",
    }
    template = (
        "{{- if .Suffix }}<fim_prefix>{{ .Prompt }}<fim_suffix>{{ .Suffix }}<fim_middle>{{- else }}{{ .Prompt }}"
        "{{- end }}"
    )
    for body in ({"model": MODEL}, {"name": MODEL + ":latest"}, {"model": MODEL, "name": "x"}):
        assert (await new_client.post("/api/show", json=body)).json() == {
            "modelfile": f'FROM {MODEL}\nTEMPLATE """{template}"""\n',
            "parameters": "",
            "template": template,
            "details": details,
            "model_info": {"general.architecture": "starcoder", "starcoder.context_length": WINDOW},
            "capabilities": ["completion", "insert"],
            "modified_at": since,
        }
    name = MODEL + ":latest"
    entry = {"name": name, "model": name, "modified_at": since, "size": 0, "digest": "", "details": details}
    assert (await new_client.get("/api/tags")).json() == {"models": [entry]}
    assert (await new_client.get("/api/version")).json() == {"version": package_version()}
    loaded = (await new_client.post("/api/generate", json={"model": name})).json()
    assert datetime.fromisoformat(loaded.pop("created_at")).tzinfo is not None
    assert loaded == {"model": name, "response": "", "done": True, "done_reason": "load"}
    assert (await new_client.post("/api/generate", json={"model": "x"})).status_code == 404


async def test_a_model_without_gaps_says_so(tokenizer: Tokenizer) -> None:
    rules = starcoder_rules()
    rules["added_tokens"] = [one for one in rules["added_tokens"] if "fim" not in one["content"]]
    assert ollama.fim_template(ApiContext(FakeBackend(tokenizer), Tokenizer(rules))) == "{{ .Prompt }}"


# Tabby


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/a/b", "a/b"),
        ("git@h:a/b.git", "a/b"),
        ("git@h:b.git", "None"),
        ("h:a/b//", "a/b"),
        ("a/b", "a/b"),
        ("a/.git", "a/.git"),
        ("/b", "None"),
        ("a/", "None"),
        ("x/h:b", "None"),
    ],
)
def test_the_name_of_a_repository(url: str, name: str) -> None:
    assert str(tabby._repository(url)) == name


@pytest.mark.parametrize(
    ("text", "language", "found"),
    [
        ("a", "python", ".python.1"),
        ("a", "klingon", ".other.1"),
        ("\n" * 5 + "a\nb" + "\n" * 5, "python", ".python.2"),
        ("a" + "\n" * 20_000 + "a", "python", f".python.{tabby.MAX_LINES}"),
    ],
)
def test_what_an_id_says(text: str, language: str, found: str) -> None:
    made = tabby.completion_id("0a", language, text)
    assert made == "cmpl-0a" + found
    assert tabby.language_of(made) == found.split(".")[1]
    for strange in (made + "x", "x" + made, made.replace("python", "klingon"), made + "\n", "cmpl-.python.1", ""):
        assert tabby.language_of(strange) == ("python" if strange == made and language == "python" else "other")


def test_what_was_taken_is_on_the_teams_account() -> None:
    team = Team(id="t", name="t", created_at=0)
    key = Key(
        id="k",
        team_id="t",
        name="k",
        digest=b"",
        pepper_id="",
        last_four="",
        scopes=(),
        created_at=0,
        created_by="local",
    )
    event = tabby.EventRequest.model_validate({"type": "select", "completion_id": "cmpl-0a.python.7"})
    found = tabby.accepted_by(Principal(team=team, key=key, user="me"), event, "select", "m")
    assert found is not None
    assert (found.team_id, found.key_id, found.model, found.dialect, found.user) == ("t", "k", "m", "tabby", "me")
    assert found.at > 1_700_000_000
    without = tabby.accepted_by(Principal(team=team), event, "select", "m")
    assert without is not None
    assert (without.key_id, without.user) == (None, None)


async def test_what_tabby_asks_of_the_engine(api: ApiContext) -> None:
    async def asked(**body: Any) -> GenerationRequest:
        fields = {"segments": {"prefix": "x", "filepath": "a.rs"}, **body}
        return await tabby.to_generation_request(tabby.SegmentsRequest.model_validate(fields), api)

    request = await asked(user="me", stop="end", seed=5)
    assert (request.user, request.stop, request.params.seed) == ("me", ("end",), 5)
    assert (request.params.max_tokens, request.params.temperature) == (64, 0.1)
    assert request.session is not None  # a user and a file are an editor
    assert (await asked()).session is None
    assert request.rules is not None
    assert (await asked(completion_mode="raw")).rules is None


async def test_tabby_says_what_the_server_is(new_client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    assert (await new_client.get("/v1/health")).json() == {
        "model": MODEL,
        "device": "unknown",
        "cuda_devices": [],
        "models": {"completion": {"local": {"model_id": MODEL, "device": "unknown"}}},
        "arch": platform.machine(),
        "cpu_info": platform.processor() or "unknown",
        "cpu_count": os.cpu_count() or 1,
        "version": {"build_date": "", "build_timestamp": "", "git_sha": "", "git_describe": "starcoder-serve"},
    }
    for reason, message in ((None, "The engine is not healthy."), ("It fell.", "It fell.")):
        fake_backend.report = HealthReport(healthy=False, reason=reason)
        response = await new_client.get("/v1/health")
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
        assert response.json()["error"]["message"] == message


async def test_tabby_says_nothing_of_what_was_given_up(tokenizer: Tokenizer) -> None:
    api = ApiContext(Scripted(tokenizer, [Delta(index=0, finish_reason="abort")]), tokenizer)
    body = tabby.SegmentsRequest.model_validate({"segments": {"prefix": "x"}})
    with pytest.raises(EngineUnavailableError, match="gave up"):
        await tabby.answer(body, api)
    api = ApiContext(
        Scripted(tokenizer, [Delta(index=0, text="a\nb", finish_reason="stop", ended_by="line")]), tokenizer
    )
    answer = json.loads(bytes((await tabby.answer(body, api)).body))
    assert answer["id"].endswith(".other.2")
    assert answer["choices"] == [{"index": 0, "text": "a\nb", "ended_by": "line"}]
    assert answer["mode"] == "standard"


@pytest.mark.parametrize(
    ("body", "dialect"),
    [
        ({"segments": {}}, "(tabby)"),
        ({"segments": None}, "(openai)"),
        ({}, "(openai)"),
        ([], "(openai)"),
        ("segments", "(openai)"),
        (tabby.SegmentsRequest.model_validate({"segments": {"prefix": "x"}}), "(tabby)"),
    ],
)
def test_segments_are_tabbys(body: Any, dialect: str) -> None:
    assert _dialect(body) == dialect


# Mistral


async def test_what_mistral_asks_of_the_engine(api: ApiContext) -> None:
    async def asked(**body: Any) -> GenerationRequest:
        return await mistral_fim.to_generation_request(
            mistral_fim.FimRequest.model_validate({"prompt": "x", **body}), api
        )

    for body, seed in (({}, None), ({"random_seed": 0}, 0), ({"seed": 5}, 5), ({"seed": 5, "random_seed": 6}, 6)):
        assert (await asked(**body)).params.seed == seed
    request = await asked(stop="end", suffix="y")
    assert (request.stop, request.params.temperature, request.rules is not None) == (("end",), 0.2, True)
    assert request.params.max_tokens == WINDOW - len(request.prompts[0])


# DeepSeek


async def test_a_completion_of_deepseeks_is_openais(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    for path in ("/beta/completions", "/v1/beta/completions"):
        headers = {"x-session-id": "s"}
        answer = await client.post(path, json={"prompt": "x", "max_tokens": 200}, headers=headers)
        assert answer.json()["choices"][0]["text"] == ANSWER
        session = fake_backend.requests[-1].session
        assert session is not None
        assert fake_backend.requests[-1].dialect == "deepseek"
