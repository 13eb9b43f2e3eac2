"""What a server that answers says of itself, and what is made of it for whoever started it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deployments.command import ready
from deployments.settings import Settings
from monitoring.front import Front

SECURED = {"ssl_certfile": Path("/a.crt"), "ssl_keyfile": Path("/a.key")}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, bytes] | None]:
    """By path, of a server at the port 8123."""
    known: dict[str, tuple[int, bytes] | None] = {}

    def get(front: Front, path: str) -> tuple[int, bytes] | None:
        assert front.port == 8123
        return known[path]

    monkeypatch.setattr(Front, "get", get)
    return known


def test_a_server_is_asked_where_it_listens() -> None:
    settings = Settings(host="::1", port=8123, served_model_name="ours")
    assert ready.front(settings) == Front("::1", 8123, False, "ours")
    assert ready.front(settings.model_copy(update=SECURED)).tls


@pytest.mark.parametrize(
    ("answered", "body"),
    [(None, None), ((200, b""), b""), ((200, b"{}"), b"{}"), ((201, b"{}"), None), ((503, b"{}"), None)],
)
def test_what_it_answers_counts_where_it_does(
    answered: tuple[int, bytes] | None, body: bytes | None, answers: dict[str, tuple[int, bytes] | None]
) -> None:
    answers["/health"] = answered
    assert ready.answer(Settings(port=8123), "/health") == body


def test_what_computes_is_known_where_it_says_so(answers: dict[str, tuple[int, bytes] | None]) -> None:
    settings = Settings(port=8123)
    for answered in (None, (500, b"no"), (200, b""), (200, b'{"forward": null}')):
        answers["/version"] = answered
        assert ready.forward(settings) is None
    forward = {"path": "torch", "reason": "no compiler", "products": None}
    answers["/version"] = 200, json.dumps({"forward": forward, "version": "1"}).encode()
    assert ready.forward(settings) == forward


@pytest.mark.parametrize(
    ("host", "secured", "url", "curl"),
    [
        ("127.0.0.1", False, "http://127.0.0.1:8123", "curl"),
        ("0.0.0.0", True, "https://127.0.0.1:8123", "curl --insecure"),
        ("::1", True, "https://[::1]:8123", "curl --insecure"),
        ("localhost", True, "https://localhost:8123", "curl --insecure"),
        ("code.corp.test", True, "https://code.corp.test:8123", "curl"),
        ("code.corp.test", False, "http://code.corp.test:8123", "curl"),
    ],
)
def test_how_to_ask_can_be_pasted(host: str, secured: bool, url: str, curl: str) -> None:
    settings = Settings(host=host, port=8123, served_model_name="ours", **(SECURED if secured else {}))
    message = ready.ready_message(settings, 12.34, {"path": "triton", "reason": None, "products": "int16"})
    computed = "with its forward pass by Triton kernels by AVX512-VNNI"
    first, *lines = message.splitlines()
    assert first == f"Ready after 12.3 s: ours at {url} (in a browser, too; the API: {url}/docs), {computed}. Try:"
    asked, data = lines
    assert asked == f"  {curl} {url}/v1/completions -H 'Content-Type: application/json' \\"
    before, quote, body = data.partition("'")
    assert (before, quote, body[-1]) == ("    -d ", "'", "'")
    assert json.loads(body[:-1]) == {
        "model": "ours",
        "prompt": "import logging\n\nlogger = logging.",
        "suffix": "\n",
        "max_tokens": 16,
        "temperature": 0,
        "completion_mode": "auto",
    }
