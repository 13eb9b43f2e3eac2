"""Adding a sampling parameter that the engine knows is adding one declaration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deployments.api.parameters.candidates import TOP_P
from deployments.api.parameters.parameter import Parameter
from deployments.api.parameters.registry import parameters
from model.request import SamplingParams
from tests.support.contributing import example
from tests.support.fresh_process import run_fresh, with_module
from tests.support.product_files import ROOT, sources

PARAMETER = example("A sampling parameter")

ENGINE = """
import msgspec
import model.request
extended = msgspec.defstruct(
    "SamplingParams", [("top_a", float, 3.0)], bases=(model.request.SamplingParams,), frozen=True, omit_defaults=True
)
model.request.SamplingParams = extended
"""

SEE = """
import asyncio, json
import httpx
from deployments.ingress import create_app
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import MODEL, FakeBackend
from tests.support.tokenizers import starcoder_rules

tokenizer = Tokenizer(starcoder_rules())
backend = FakeBackend(tokenizer)
app = create_app(backend=backend, tokenizer=tokenizer)
BODIES = [
    ("/v1/completions", {"prompt": "x"}, None),
    ("/v1/completions", {"segments": {"prefix": "x"}}, None),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}, None),
    ("/v1/fim/completions", {"prompt": "x"}, None),
    ("/beta/completions", {"prompt": "x"}, None),
    ("/generate", {"inputs": "x"}, "parameters"),
    ("/infill", {"input_prefix": "x"}, None),
    ("/completion", {"prompt": "x"}, None),
    ("/api/generate", {"model": MODEL, "prompt": "x", "stream": False}, "options"),
    ("/v1/refactor", {"code": "x", "instruction": "y"}, None),
]


async def see():
    got, refused = {}, []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for number, (path, body, nest) in enumerate(BODIES):
            for value in (7.0, -1.0, 999.0):
                sent = {nest: {"top_a": value}} if nest else {"top_a": value}
                answer = await client.post(path, json=body | sent)
                if answer.status_code != 200:
                    refused.append("top_a" in answer.text)
            got[f"{number} {path}"] = [request.params.top_a for request in backend.requests]
            backend.requests.clear()
        await client.post("/v1/completions", json={"prompt": "x"})
    schemas = app.openapi()["components"]["schemas"]
    fields = {name: s["properties"] for name, s in schemas.items() if "min_p" in s.get("properties", {})}
    return {"got": got, "refused": refused, "default": backend.requests[0].params.top_a,
            "fields": {name: properties.get("top_a") for name, properties in fields.items()}}


print(json.dumps(asyncio.run(see())))
"""


def test_a_declaration_is_a_parameter_of_every_dialect(tmp_path: Path) -> None:
    (tmp_path / "made_up.py").write_text(PARAMETER)
    seen = run_fresh(with_module("deployments.api.parameters", tmp_path, ENGINE) + SEE)
    assert len(seen["got"]) == 10
    assert set(map(tuple, seen["got"].values())) == {(3.5,)}
    assert seen["refused"] == [True] * 20
    assert seen["default"] == 1.5
    assert len(seen["fields"]) >= 8
    for field in seen["fields"].values():
        assert field == {
            "title": "Top A",
            "type": "number",
            "default": 3.0,
            "description": "Made up.",
            "minimum": 0.0,
            "maximum": 1000.0,
        }


def test_every_field_of_the_engine_is_declared() -> None:
    assert sorted(parameter.name for parameter in parameters()) == sorted(SamplingParams.__struct_fields__)


def test_what_the_engine_does_not_know_cannot_be_declared() -> None:
    with pytest.raises(KeyError, match="top_a"):
        Parameter("top_a", description="Nobody would read it.")


def test_a_dialect_says_only_what_differs() -> None:
    own = TOP_P.field(gt=0, default=0.5)
    assert (own.default, own.description) == (0.5, TOP_P.brief)
    assert [str(bound) for bound in own.metadata] == ["Gt(gt=0)", "Le(le=1)"]


def test_nobody_else_declares_one() -> None:
    names = "|".join(parameter.name for parameter in parameters() if parameter.shared)
    declared = re.compile(rf"^\s+(?:{names})\b[^=\n]*= Field\(\s*default", re.MULTILINE)
    paths = [path for path in sources() if path.is_relative_to(ROOT / "deployments" / "api")]
    assert len(paths) > 20
    assert [path for path in paths if declared.search(path.read_text(encoding="utf-8"))] == []
