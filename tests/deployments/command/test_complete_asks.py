"""What `starcoder complete` asks a server, and what it makes of every answer; without a server."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.command import cli
from deployments.command.complete import _refusal
from deployments.command.connection import TIMEOUT

Answer = Callable[[httpx.Request], httpx.Response]


class Server:
    """asked: requests. clients: how each client was made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[httpx.Request] = []
        self.clients: list[dict[str, Any]] = []
        self.answer: Answer = streamed()
        client = httpx.Client

        def made(**options: Any) -> httpx.Client:
            self.clients.append(options)
            return client(**options, transport=httpx.MockTransport(self._answered))

        monkeypatch.setattr(httpx, "Client", made)
        for name in ("URL", "API_KEY"):
            monkeypatch.delenv(f"STARCODER_{name}", raising=False)

    def _answered(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return self.answer(request)


def streamed(*pieces: str | None, **options: Any) -> Answer:
    """A stream of pieces, with what may come between them; None: a chunk without text."""
    deltas = [{} if piece is None else {"content": piece} for piece in pieces]
    events = [": a comment", *(f"data: {json.dumps({'choices': [{'delta': delta}]})}" for delta in deltas)]
    text = "\n\n".join([*events, "data: [DONE]", ""])
    return lambda request: httpx.Response(
        options.get("status", 200), text=text, headers={"content-type": "text/event-stream; charset=utf-8"}
    )


def failed(error: Exception) -> Answer:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    return fail


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "add.py"
    path.write_text("a = 1\nb = 2\n")
    return path


def test_a_file_is_asked_for_with_its_name_and_the_key(server: Server, source: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-sc-1\n")
    more = ["--line=1", "--temperature=0.5", f"--api-key-file={tmp_path / 'key'}", "--url=http://there:81"]
    assert cli.main(["complete", str(source), *more]) == 0
    (asked,) = server.asked
    assert (asked.method, str(asked.url)) == ("POST", "http://there:81/v1/fim/completions")
    assert asked.headers["authorization"] == "Bearer sk-sc-1"
    assert json.loads(asked.content) == {
        "prompt": "a = 1",
        "suffix": "\nb = 2\n",
        "max_tokens": 128,
        "temperature": 0.5,
        "completion_mode": "auto",
        "filename": "add.py",
        "stream": True,
    }
    assert [client["timeout"] for client in server.clients] == [TIMEOUT]


def test_standard_input_has_no_name_and_the_default_server_no_key(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stdin, told in ((Terminal, "Type what is to be completed, and Ctrl-D.\n"), (io.StringIO, "")):
        monkeypatch.setattr(sys, "stdin", stdin("x = \n"))
        server.answer = streamed("1")
        assert cli.main(["complete"]) == 0
        assert capsys.readouterr() == ("1\n", told)
        asked = server.asked[-1]
        assert str(asked.url) == "http://127.0.0.1:8000/v1/fim/completions"
        assert "authorization" not in asked.headers
        body = json.loads(asked.content)
        assert (body["prompt"], body["suffix"]) == ("x = ", "")
        assert "filename" not in body


@pytest.mark.parametrize(
    ("pieces", "out", "told"),
    [
        (["a", "b"], "ab\n", False),
        (["a", None, "", "b\n"], "ab\n", False),
        (["a", "\n"], "a\n", False),
        ([" ", "\n"], " \n", True),
        ([" "], " \n", True),
        ([], "", True),
    ],
)
def test_pieces_are_printed_as_they_come_and_a_line_ends(
    pieces: list[str | None], out: str, told: bool, server: Server, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = streamed(*pieces)
    assert cli.main(["complete", str(source)]) == 0
    assert capsys.readouterr() == (out, "(the model adds nothing here)\n" if told else "")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (failed(httpx.ConnectError("refused")), "no server at {url}: refused. `starcoder serve` starts one"),
        (failed(httpx.RemoteProtocolError("cut")), "{url}: cut (if the server speaks TLS, say https://)"),
        (failed(httpx.ReadError("cut")), "{url}: cut (if the server speaks TLS, say https://)"),
        (failed(httpx.ReadTimeout("")), "{url}: ReadTimeout"),
        (failed(httpx.ReadTimeout("too late")), "{url}: too late"),
        (lambda _: httpx.Response(403, json={"error": {"message": "no"}}), "no"),
        (lambda _: httpx.Response(200, json={"error": {"message": "no"}}), "no"),
        (lambda _: httpx.Response(200, text=""), "the server answered 200, and not as this program does"),
        (streamed("a", status=201), "the server answered 201, and not as this program does"),
    ],
)
def test_what_keeps_it_from_an_answer_is_one_line(
    answer: Answer, said: str, server: Server, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = answer
    for url in ("http://there", "https://there"):
        assert cli.main(["complete", str(source), "--url", url]) == 1
        expected = said.format(url=url)
        if url.startswith("https"):
            expected = expected.replace(" (if the server speaks TLS, say https://)", "")
        assert capsys.readouterr() == ("", f"starcoder complete: {expected}\n")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"error": "no"}', b'{"error": {}}', b"\xff", b"null"])
def test_a_refusal_that_says_nothing_is_told_by_its_status(body: bytes) -> None:
    assert _refusal(502, body) == "the server answered 502, and not as this program does"
