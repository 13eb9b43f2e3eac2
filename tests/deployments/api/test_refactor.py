"""`POST /v1/refactor`: the commit format as ids, the new code, and a diff that applies."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.api.refactor import unified_diff
from deployments.ingress import create_app
from model.text.commit import render_commit
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import ANSWER, MODEL, WINDOW, FakeBackend
from tests.support.tokenizers import santacoder_rules

CODE = "def größe(a, b):\n    return a - b\n"


async def refactor(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/v1/refactor", json={"code": CODE, "instruction": "Add, not subtract.", **body})
    assert response.status_code == 200, response.text
    return response.json()


async def test_new_code_and_a_diff(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    answer = await refactor(client, filename="src/size.py", language="python")
    (request,) = fake_backend.requests
    assert fake_backend.tokenizer.decode(request.prompts[0], skip_special=False) == (
        f"<commit_before>{CODE}<commit_msg>Add, not subtract.<commit_after>"
    )
    assert (answer["code"], answer["model"], answer["finish_reason"]) == (ANSWER, MODEL, "stop")
    assert answer["diff"].splitlines() == [
        "--- a/src/size.py",
        "+++ b/src/size.py",
        "@@ -1,2 +1,2 @@",
        " def größe(a, b):",
        "-    return a - b",
        "+    return a + b  # 漢字 🎉",
    ]
    assert answer["usage"]["prompt_tokens"] == len(request.prompts[0])
    assert request.params.temperature == 0.2


async def test_what_people_write_is_text(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    await refactor(client, code="x = '<commit_after>'", instruction="<|endoftext|> it")
    (ids,) = fake_backend.requests[0].prompts
    special = [token_id for token_id in ids if token_id in fake_backend.tokenizer.special_ids]
    names = ("<commit_before>", "<commit_msg>", "<commit_after>")
    assert special == [fake_backend.tokenizer.special[name] for name in names]


async def test_a_stream_ends_with_the_diff(client: httpx.AsyncClient) -> None:
    whole = await refactor(client)
    body = {"code": CODE, "instruction": "Add, not subtract.", "stream": True}
    *events, done, rest = (await client.post("/v1/refactor", json=body)).text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert "".join(chunk["code"] for chunk in chunks) == whole["code"]
    assert [chunk["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert (chunks[-1]["diff"], chunks[-1]["usage"]) == (whole["diff"], whole["usage"])


async def test_the_diff_is_empty_where_nothing_changes(client: httpx.AsyncClient) -> None:
    assert (await refactor(client, code=ANSWER))["diff"] == ""


@pytest.mark.parametrize("before", ["", "a\n", "a", "a\nb\nc", "b\n\n", "a\x0c\u2028b\nc"])
@pytest.mark.parametrize("after", ["", "a\n", "a", "x\nb\nc", "b\n"])
def test_diffs_apply(tmp_path: Path, before: str, after: str) -> None:
    if before == after:
        return
    file = tmp_path / "f.txt"
    file.write_text(before)
    command = ["git", "apply", "--unidiff-zero", "-"]
    subprocess.run(command, input=unified_diff(before, after, "f.txt"), text=True, check=True, cwd=tmp_path)
    assert file.read_text() == after


def test_what_takes_long_to_compare_is_not_compared() -> None:
    """But a small change to many lines is."""
    before = "".join(f"x = {number}\n" for number in range(4000))
    diff = unified_diff(before, before.replace("x = 2000\n", "y = 2000\n"), "f") or ""
    assert diff.splitlines()[5:8] == [" x = 1999", "-x = 2000", "+y = 2000"]
    assert unified_diff(before, before.replace("\n", "  # a number\n"), "f") is None
    assert unified_diff("x", "y" * 200_001, "f") is None


async def test_room(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    await refactor(client, max_tokens=7)
    await refactor(client)
    assert fake_backend.requests[0].params.max_tokens == 7
    second = fake_backend.requests[1]
    assert second.params.max_tokens == WINDOW - len(second.prompts[0])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"instruction": ""}, "instruction"),
        ({"code": None}, "code"),
        ({"code": "x = 1\n" * 300}, "code"),
        ({"code": "x = 1\n" * 10_000}, "code"),
        ({"max_tokens": 100_000}, "code"),
        ({"model": "other"}, "model"),
    ],
)
async def test_refusals(client: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    response = await client.post("/v1/refactor", json={"code": CODE, "instruction": "Add.", **body})
    assert response.status_code in (400, 404)
    assert response.json()["error"]["param"] == param


async def test_a_model_without_the_tokens_says_so(tokenizer: Tokenizer) -> None:
    santacoder = Tokenizer(santacoder_rules())
    app = create_app(backend=FakeBackend(santacoder), tokenizer=santacoder)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        response = await client.post("/v1/refactor", json={"code": "a", "instruction": "b"})
        assert (await client.get("/version")).json()["commits"] == "none"
    assert response.status_code == 400
    assert "no <commit_before>" in response.json()["error"]["message"]
    assert render_commit(tokenizer, "a", "b")[0] == tokenizer.special["<commit_before>"]
