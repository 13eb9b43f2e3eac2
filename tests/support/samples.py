"""Code samples of the OpenAPI document, and what they send when they are run."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

KEY = "sk-sc-of-a-test"


@dataclass(frozen=True)
class Sample:
    """An example in each language. operation: its method and path."""

    operation: str
    title: str
    sources: dict[str, str]


@dataclass(frozen=True)
class Sent:
    """target: path and query."""

    method: str
    target: str
    authorization: str | None
    body: Any


def samples_of(document: dict[str, Any]) -> Iterator[Sample]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            titled: dict[str, dict[str, str]] = {}
            for sample in operation["x-codeSamples"]:
                titled.setdefault(sample["x-example"], {})[sample["label"]] = sample["source"]
            for title, sources in titled.items():
                yield Sample(f"{method.upper()} {path}", title, sources)


def sent_by_python(source: str) -> Sent:
    """Runs the program, with an empty answer."""
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={})

    with (
        httpx.Client(transport=httpx.MockTransport(answer)) as client,
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        patch.setenv("STARCODER_API_KEY", KEY)
        for method in ("get", "post", "delete"):
            patch.setattr(httpx, method, getattr(client, method))
        exec(source, {})
    (request,) = requests
    target = request.url.raw_path.decode()
    body = json.loads(request.content) if request.content else None
    return Sent(request.method, target, request.headers.get("authorization"), body)


class Recorder:
    """An app that keeps what it is sent, and answers an empty object."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        headers = dict(scope["headers"])
        query = f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
        authorization = headers.get(b"authorization")
        self.sent.append(
            Sent(
                scope["method"],
                scope["raw_path"].decode() + query,
                None if authorization is None else authorization.decode(),
                json.loads(body) if body else None,
            )
        )
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b"{}"})
