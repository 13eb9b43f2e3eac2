"""Adding a stop rule is adding one file."""

from __future__ import annotations

from pathlib import Path

from deployments.command.boards import ROOT
from deployments.stop_rules.reference import reference
from deployments.stop_rules.registry import stop_rules
from tests.support.contributing import example
from tests.support.fresh_process import run_fresh, with_module
from tests.support.product_files import lists_of

RULE = example("A stop rule")

SEE = """
import asyncio, json
import httpx
from benchmarks.__main__ import build_parser
from benchmarks.quality.stop_rules import SETS
from deployments.ingress import create_app
from deployments.labels import declared_labels
from deployments.stop_rules.reference import reference
from deployments.stop_rules.registry import stop_rules
from model.text.tokenizer import Tokenizer
from monitoring import ReplicaMetrics, render
from deployments.command.boards import files
from tests.support.fake_backend import FakeBackend
from tests.support.log_lines import captured
from tests.support.tokenizers import starcoder_rules

tokenizer = Tokenizer(starcoder_rules())
app = create_app(backend=FakeBackend(tokenizer), tokenizer=tokenizer)
completion = {"prompt": "x", "max_tokens": 90, "stop_letter": "r"}


async def see():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        with captured() as lines:
            (choice,) = (await client.post("/v1/completions", json=completion)).json()["choices"]
            refused = await client.post("/v1/completions", json=completion | {"stop_letter": "rr"})
        words = (await client.get("/playground/stop-rules.js")).text
    schemas = app.openapi()["components"]["schemas"]
    (metrics := ReplicaMetrics("pico", declared=declared_labels())).rule_ended("letter")
    return {
        "choice": choice,
        "refused": refused.json()["error"]["param"],
        "log": lines.requests()[0]["ended_by"],
        "words": words,
        "bodies": [name for name, schema in schemas.items() if "stop_letter" in schema.get("properties", {})],
        "editors": [name for name, schema in schemas.items() if "trim_suffix" in schema.get("properties", {})],
        "field": schemas["CompletionRequest"]["properties"]["stop_letter"]["description"],
        "ended_by": [s["properties"]["ended_by"]["anyOf"][0]["enum"] for s in schemas.values()
                     if "ended_by" in s.get("properties", {})],
        "metric": 'starcoder_stop_rule_ends_total{model="pico",rule="letter"} 1.0' in render().decode(),
        "metrics.md": [text for path, text in files().items() if path.name == "metrics.md"][0],
        "stop-rules.md": reference(),
        "names": list(stop_rules()),
        "sets": list(SETS),
        "option": build_parser().parse_args(["stop-rules"]).stop_letter,
    }


print(json.dumps(asyncio.run(see())))
"""


def test_a_file_is_a_rule(tmp_path: Path) -> None:
    (tmp_path / "letter.py").write_text(RULE)
    seen = run_fresh(with_module("deployments.stop_rules", tmp_path) + SEE)
    names = seen["names"]
    assert [name for name in names if name != "letter"] == [*stop_rules()]
    assert names.index("repetition") < names.index("letter") < names.index("special_token")
    assert (seen["choice"]["text"], seen["choice"]["ended_by"]) == ("def g", "letter")
    assert seen["refused"] == "stop_letter"
    assert seen["log"] == ["letter"]
    assert '"letter":"cut: a letter"' in seen["words"]
    assert seen["bodies"] == seen["editors"] != []
    assert seen["field"] == "The letter."
    assert seen["ended_by"] == [names] * len(seen["ended_by"]) != []
    assert seen["metric"]
    assert f"- `rule`: {', '.join(names)}\n" in seen["metrics.md"]
    assert "| `letter` | before a letter that the field names | `stop_letter` | off |" in seen["stop-rules.md"]
    assert "auto and letter" in seen["sets"]
    assert seen["option"] == "z"


def test_two_rules_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "copied.py").write_text(
        "from deployments.stop_rules.rule import StopRule\nRULE = StopRule('line', 1, '', '')\n"
    )
    script = """
import json
from deployments.stop_rules.registry import stop_rules
try:
    stop_rules()
except ValueError as error:
    print(json.dumps(str(error)))
"""
    assert "'line'" in run_fresh(with_module("deployments.stop_rules", tmp_path) + script)


def test_nobody_else_keeps_a_list() -> None:
    """`line`, `block` and `suffix` mean other things too."""
    assert lists_of(stop_rules(), 4) == []


def test_the_document_is_todays() -> None:
    """`make boards` writes it."""
    assert (ROOT / "docs" / "stop-rules.md").read_text(encoding="utf-8") == reference()
