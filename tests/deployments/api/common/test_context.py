"""What dialects have at hand: the served model, the order of a gap, limits, callers and the health of it all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.requests import Request

from deployments.api.common import code_fields as module
from deployments.api.common.code_fields import ANYBODY, Caller, CodeFields
from deployments.api.common.context import ApiContext
from deployments.api.common.examples import HERE, TITLED, example, examples
from deployments.api.common.health_answer import Health, not_ready
from deployments.errors import InvalidRequestError, ModelNotFoundError
from deployments.health import EngineHealth, HealthReport, Member
from deployments.http.request_record import current
from deployments.limits import ApiLimits
from deployments.protocol import ModelInfo
from model.text.context import RepositoryContext
from model.text.fim import FimOrder
from model.text.prompts import Infill, Plain, PromptForm, Raw
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import MODEL, FakeBackend
from tests.support.tokenizers import starcoder_rules

NAMED = Caller("s", "me")


class Counted(FakeBackend):
    asked = 0

    async def info(self) -> ModelInfo:
        self.asked += 1
        return await super().info()


@pytest.fixture
def api(tokenizer: Tokenizer) -> ApiContext:
    return ApiContext(Counted(tokenizer), tokenizer)


async def test_the_model_is_asked_for_once(api: ApiContext) -> None:
    assert current() is None
    first, again = await api.model(), await api.served_model(MODEL)
    assert first is again is api.known_model is await api.served_model(None)
    assert isinstance(api.backend, Counted)
    assert api.backend.asked == 1
    with pytest.raises(ModelNotFoundError) as refused:
        await api.served_model("gpt")
    assert refused.value.message == f"The model 'gpt' is not served here; this server has '{MODEL}'."
    assert refused.value.param == "model"


def test_so_many_completions_and_no_more(tokenizer: Tokenizer) -> None:
    api = ApiContext(FakeBackend(tokenizer), tokenizer, ApiLimits(max_fan_out=6))
    for prompts, best_of in ((1, 6), (6, 1), (2, 3)):
        api.check_fan_out(prompts, best_of)
    with pytest.raises(InvalidRequestError) as refused:
        api.check_fan_out(7, 2)
    assert refused.value.message == ("7 prompts with 2 completions each are 14 completions; one request may ask for 6.")
    assert refused.value.code == "too_many_completions"


def test_the_request_goes_before_the_setting_and_that_before_the_checkpoint(tokenizer: Tokenizer) -> None:
    api = ApiContext(FakeBackend(tokenizer), tokenizer)
    own = tokenizer.fim_order
    assert api.fim_order() == api.fim_order("auto") == own
    assert api.fim_order("psm") == FimOrder("psm", "request")
    api.limits = ApiLimits(default_fim_mode="psm")
    assert api.fim_order() == FimOrder("psm", "setting")
    assert api.fim_order("spm") == FimOrder("spm", "request")


def test_a_gap_is_one_wherever_the_model_knows_any(tokenizer: Tokenizer) -> None:
    context = RepositoryContext("a/b", "c.py", ())
    api = ApiContext(FakeBackend(tokenizer), tokenizer)
    mode = tokenizer.fim_order.mode
    assert api.gap("") == Infill(mode, "", None)
    assert api.gap("x", context) == Infill(mode, "x", context)
    other: Any = "psm" if mode == "spm" else "spm"
    assert api.gap("x", context, other) == Infill(other, "x", context)
    rules = starcoder_rules()
    rules["added_tokens"] = [one for one in rules["added_tokens"] if "fim" not in one["content"]]
    none = Tokenizer(rules)
    assert none.fim is None
    api = ApiContext(FakeBackend(none), none)
    assert api.gap("", context) == Plain(context)
    assert isinstance(api.gap("x", context), Infill)  # refused where it is rendered
    assert isinstance(api.gap("", context, "psm"), Infill)


def request_of(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw})


def test_a_caller_is_known_by_the_first_key() -> None:
    assert module._caller(request_of()) == ANYBODY == Caller(None, "")
    assert module._caller(request_of(), "s") == Caller("s", "")
    assert module._caller(request_of(authorization="a", x_api_key="b", api_key="c")).name == "a"
    assert module._caller(request_of(authorization="", x_api_key="b", api_key="c")).name == "b"
    assert module._caller(request_of(api_key="c"), "s") == Caller("s", "c")


def options(
    tokenizer: Tokenizer,
    prompts: list[str] | list[list[int]],
    form: PromptForm | None = None,
    caller: Caller = NAMED,
    *,
    user: str | None = None,
    path: str | None = None,
    **fields: Any,
) -> module.CodeOptions:
    body = CodeFields.model_validate(fields)
    return body.options(tokenizer, prompts, form or Raw(), caller, user=user, path=path)


def test_what_is_said_of_a_file_goes_before_what_the_dialect_says(tokenizer: Tokenizer) -> None:
    def language(**said: Any) -> str:
        rules = options(tokenizer, ["x"], completion_mode="auto", **said)["rules"]
        assert rules is not None
        return rules.language

    assert language(path="a.rs") == "rust"
    assert language(path="a.rs", filename="a.go") == "go"
    assert language(path="a.rs", filename="a.go", language="java") == "java"

    def key(**said: Any) -> str | None:
        session = options(tokenizer, ["x"], **said)["session"]
        return session and session.key

    assert key(path="a.rs") == key(filename="a.rs") == key(filename="a.rs", path="b.rs") != key()
    assert key(caller=Caller("s", "you")) != key()
    assert key(caller=Caller(None, "me"), session_id="s") == key()
    assert key(caller=Caller("t", "me"), session_id="s") == key()
    assert key(caller=Caller(None, "me"), user="u") is None
    assert key(caller=Caller(None, "me"), user="s", path="a.rs") not in (None, key(path="a.rs"))


def test_rules_see_what_is_near_the_cursor(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PREFIX_CHARACTERS", 4)
    monkeypatch.setattr(module, "SUFFIX_CHARACTERS", 3)
    monkeypatch.setattr(module, "TYPED_CHARACTERS", 5)
    found = options(tokenizer, ["abcdefgh", "ij"], Infill("psm", "klmnop"), completion_mode="line")
    assert found["rules"] is not None
    assert (found["rules"].prefixes, found["rules"].suffixes) == (("efgh", "ij"), ("klm", "klm"))
    session = found["session"]
    assert session is not None
    assert (session.prefix, session.prefix_length) == ("defgh", 8)
    template = options(tokenizer, ["<fim_prefix>abcdef<fim_suffix>klmnop<fim_middle>gh"], completion_mode="line")
    assert template["rules"] is not None
    assert template["rules"].prefixes[0].endswith("gh")
    assert template["rules"].suffixes == ("klm",)


def test_of_ids_nobody_tells_what_is_typed(tokenizer: Tokenizer) -> None:
    found = options(tokenizer, [[100, 101]])
    assert found["rules"] is None
    session = found["session"]
    assert session is not None
    assert (session.prefix, session.prefix_length) == ("", 0)
    for ids, same in (([100, 101], True), ([100], False)):
        other = options(tokenizer, [ids])["session"]
        assert other is not None
        assert (other.surroundings == session.surroundings) == same


@pytest.mark.parametrize(
    ("fields", "prompts", "param"),
    [
        ({"completion_mode": "auto"}, [[100]], "completion_mode"),
        ({"completion_mode": "auto", "min_tokens": 1}, ["x"], "min_tokens"),
    ],
)
def test_what_cannot_be_had_together(tokenizer: Tokenizer, fields: dict[str, Any], prompts: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        options(tokenizer, prompts, **fields)
    assert refused.value.param == param


def test_a_floor_of_tokens_goes_before_a_mode_that_nobody_named(tokenizer: Tokenizer) -> None:
    class Editors(CodeFields):
        completion_mode: module.CompletionModeField = "auto"

    for fields, ruled in (({}, True), ({"min_tokens": 1}, False)):
        body = Editors.model_validate(fields)
        assert (body.options(tokenizer, ["x"], Raw(), ANYBODY)["rules"] is not None) == ruled


def test_special_tokens_lines_and_times(tokenizer: Tokenizer) -> None:
    found = options(tokenizer, ["a\r\n", "a\n"], Infill("psm", ""), max_time_ms=70)
    assert (found["dos_prompts"], found["max_time_ms"]) == ((0,), 70)
    assert (found["skip_special"], found["special_tokens"]) == (True, False)
    found = options(tokenizer, ["a"], skip_special_tokens=False)
    assert (found["skip_special"], found["special_tokens"], found["max_time_ms"]) == (False, True, None)


def test_parts_of_a_digest_do_not_run_together() -> None:
    digests = [module._digest(*parts) for parts in (("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), (), ("\ud800",))]
    assert len(set(digests)) == len(digests)
    assert module._digest("a", b"b") == module._digest(b"a", "b")
    assert {len(digest) for digest in digests} == {32}


def test_health_has_what_the_report_has() -> None:
    engine = EngineHealth(id="a", state="ready", since=1.5, running=2, waiting=3, kv_cache_usage=0.25)
    report = HealthReport(
        healthy=True,
        heartbeat_seconds=0.5,
        running=2,
        waiting=3,
        kv_cache_usage=0.25,
        engines=[engine],
        ingresses=[Member(id="b", state="draining", since=0.5)],
    )
    told = Health.of(report).model_dump()
    assert told == {
        "status": "ok",
        "running": 2,
        "waiting": 3,
        "kv_cache_usage": 0.25,
        "heartbeat_seconds": 0.5,
        "engines": [
            {
                "id": "a",
                "state": "ready",
                "since": 1.5,
                "reason": None,
                "running": 2,
                "waiting": 3,
                "kv_cache_usage": 0.25,
                "heartbeat_seconds": None,
                "version": None,
            }
        ],
        "ingresses": [{"id": "b", "state": "draining", "since": 0.5}],
    }


@pytest.mark.parametrize(
    ("draining", "reason", "status", "message", "code"),
    [
        (False, None, "unavailable", "The engine is not healthy.", "engine_unavailable"),
        (False, "It fell.", "unavailable", "It fell.", "engine_unavailable"),
        (True, None, "draining", "The engine is not healthy.", "draining"),
    ],
)
def test_who_asks_is_sent_elsewhere(draining: bool, reason: str | None, status: str, message: str, code: str) -> None:
    response = not_ready(HealthReport(healthy=False, draining=draining, reason=reason))
    told = json.loads(bytes(response.body))
    assert (response.status_code, response.media_type) == (503, "application/json")
    assert response.headers["retry-after"] == "5"
    assert (told["status"], told["error"]["message"], told["error"]["code"]) == (status, message, code)
    assert "healthy" not in told
    assert "draining" not in told


def test_examples_keep_their_order() -> None:
    declared = examples({"second": {"b": 1, "a": [2]}, "first": {}})["json_schema_extra"]
    assert declared == {TITLED: [["second", '{"b": 1, "a": [2]}'], ["first", "{}"]]}
    assert example("second", b=1, a=[2])["json_schema_extra"] == {TITLED: [["second", '{"b": 1, "a": [2]}']]}
    assert HERE.startswith("http://127.0.0.1:")
