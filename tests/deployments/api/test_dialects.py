"""Adding a dialect is adding one file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

import deployments.api
from deployments.api.common.context import ApiContext
from deployments.api.registry import dialect_modules, dialects
from deployments.command.boards import files
from deployments.ingress import create_app
from model.text.tokenizer import Tokenizer
from monitoring.process import init, render
from tests.support.client_table import columns
from tests.support.contributing import example
from tests.support.fake_backend import ANSWER, MODEL, FakeBackend
from tests.support.log_lines import captured
from tests.support.product_files import lists_of

DIALECT = example("A dialect")


async def test_a_file_is_a_dialect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_backend: FakeBackend, tokenizer: Tokenizer
) -> None:
    init(None)
    (tmp_path / "bare_infill.py").write_text(DIALECT)
    monkeypatch.setattr(deployments.api, "__path__", [*deployments.api.__path__, str(tmp_path)])
    assert "deployments.api.bare_infill" in [module.__name__ for module in dialect_modules()]
    labels = re.search(r"^- `dialect`: (.+)$", files()[Path("docs/metrics.md")], re.MULTILINE)
    assert labels is not None
    assert "bare" in labels[1].split(", ")
    assert "Bare" in columns()
    app = create_app(backend=fake_backend, tokenizer=tokenizer)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        with captured() as lines:
            answer = await client.post("/bare_infill", json={"before": "a", "after": "b", "stop": "return"})
        assert answer.status_code == 200, answer.text
        assert [line["dialect"] for line in lines.requests()] == ["bare"]
        assert fake_backend.requests[-1].dialect == "bare"
        assert f'requests_total{{dialect="bare",model="{MODEL}",outcome="ok",team="default"}} 1.0' in exposed()
        assert answer.text == ANSWER.split("return")[0]
        refused = await client.post("/bare_infill", json={"before": "a", "after": "b", "temperature": 5})
        assert refused.json() == {"wrong": "temperature", "why": "invalid_value"}
        too_long = await client.post("/bare_infill", json={"before": "a " * 9000, "after": "b"})
        assert too_long.json()["why"] == "context_length_exceeded"
        assert (await client.post("/v1/completions", json={"prompt": "x"})).status_code == 200


def exposed() -> str:
    return render().decode()


def test_nobody_else_keeps_a_list() -> None:
    assert lists_of(dialects(), 2) == []


def test_two_dialects_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "copied.py").write_text(
        "from deployments.api.common.dialect import Dialect\nDIALECT = Dialect('tgi', 'TGI')\n"
    )
    monkeypatch.setattr(deployments.api, "__path__", [*deployments.api.__path__, str(tmp_path)])
    with pytest.raises(ValueError, match="'tgi'"):
        dialects()


def test_whatever_answers_a_completion_declares_its_dialect(fake_backend: FakeBackend, tokenizer: Tokenizer) -> None:
    """Otherwise its requests would be counted as `other`."""
    routers = [module.create_router(ApiContext(fake_backend, tokenizer)) for module in dialect_modules()]
    routes = [route for router in routers for route in router.routes if "POST" in route.methods]
    assert len(routes) > 10
    others = {route.path for route in routes if route.dialect is None}
    assert {path for path in others if not path.startswith("/v1/organization/")} == {"/v1/completions/render"}
    assert len(others) > 10  # which run nothing


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/completions", {"segments": {"prefix": "x"}}),
        ("/v1/fim/completions", {"prompt": "x"}),
        ("/beta/completions", {"prompt": "x", "suffix": "y"}),
        ("/generate", {"inputs": "x"}),
        ("/infill", {"input_prefix": "x"}),
        ("/completion", {"prompt": "x"}),
        ("/api/generate", {"model": MODEL, "prompt": "x"}),
        ("/v1/refactor", {"code": "x", "instruction": "y"}),
    ],
)
async def test_any_key_is_let_through_and_any_unknown_field_told(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], header: str
) -> None:
    response = await client.post(path, json={**body, "no_such_field": [1]}, headers={header: "Bearer anything"})
    assert response.status_code == 200, response.text
    assert response.headers["x-warnings"] == "there is no field no_such_field"
    if response.headers["content-type"] == "application/json":
        assert response.json()["warnings"] == ["there is no field no_such_field"]
