"""`starcoder complete`, by a server whose answer is known."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse, StreamingResponse

from deployments.command import cli
from deployments.command.complete import split
from deployments.ingress import create_app
from deployments.variables import ENV_PREFIX
from model.config import ConfigError
from model.text.tokenizer import Tokenizer
from tests.support.certificates import make_certificate
from tests.support.fake_app import tokenizer  # noqa: F401
from tests.support.fake_backend import ANSWER, FakeBackend
from tests.support.http_server import serving

SOURCE = "def add(a, b):\n    return\n\n\nprint(add(1, 2))\n"


@pytest.fixture(scope="module")
def backend(tokenizer: Tokenizer) -> FakeBackend:  # noqa: F811
    return FakeBackend(tokenizer)


@pytest.fixture(scope="module")
def url(backend: FakeBackend, tokenizer: Tokenizer) -> Iterator[str]:  # noqa: F811
    with serving(create_app(backend=backend, tokenizer=tokenizer)) as url:
        yield url


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "add.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize(
    ("line", "prefix", "suffix"),
    [(None, "a\n\nb", ""), (1, "a", "\n\nb\n"), (2, "a", "\n\nb\n"), (3, "a\n\nb", "\n")],
)
def test_it_splits_at_the_end_of_a_line(line: int | None, prefix: str, suffix: str) -> None:
    assert split("a\n\nb\n", line, "x.py") == (prefix, suffix)


@pytest.mark.parametrize(
    ("text", "count"),
    [("a\nb\n", "2 lines"), ("a\nb", "2 lines"), ("a\x0c\u2028b", "1 line"), ("", "0 lines")],
)
def test_a_line_that_is_not_there(text: str, count: str) -> None:
    """Lines are counted as editors do."""
    with pytest.raises(ConfigError, match=rf"x.py has {count}: there is no line 99$"):
        split(text, 99, "x.py")


def test_an_infill_knows_code_and_its_file(url: str, backend: FakeBackend, source: Path, capsys) -> None:
    assert cli.main(["complete", str(source), "--line", "2", "--url", url]) == 0
    out = capsys.readouterr().out
    assert out.startswith(ANSWER[:16])
    assert out.endswith("\n")
    request = backend.requests[-1]
    assert request.rules is not None
    assert (request.rules.mode, request.rules.language) == ("auto", "python")
    assert request.params.temperature == 0


def test_without_a_line_its_end_is_completed(
    url: str, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(SOURCE))
    monkeypatch.setenv(f"{ENV_PREFIX}URL", url)
    assert cli.main(["complete", "--mode", "line", "--max-tokens", "5"]) == 0
    request = backend.requests[-1]
    assert request.rules is not None
    assert request.rules.mode == "line"
    assert request.params.max_tokens == 5
    assert backend.tokenizer.decode(request.prompts[0], skip_special=True).endswith("print(add(1, 2))")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--line", "99"], 2, "add.py has 5 lines: there is no line 99"),
        (["--line", "0"], 2, "argument --line: '0' is no whole number above 0"),
        (["--lin", "3"], 2, "there is no option --lin (did you mean '--line'?)"),
        (["--url", "http://127.0.0.1:9"], 1, "no server at http://127.0.0.1:9: "),
        (["--url", "localhost:8000"], 1, "localhost:8000: "),
        (["--url", "http://localhost:x"], 2, "'http://localhost:x' is no URL: Invalid port"),
        (["--temperature=3"], 1, "`temperature`: input should be less than or equal to 2 (got 3)"),
        (["--temperature=-1"], 2, "argument --temperature: '-1' is no number of at least 0"),
        (["--temperature=nan"], 2, "argument --temperature: 'nan' is no number of at least 0"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str], code: int, message: str, url: str, source: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}URL", url)
    try:
        ended = cli.main(["complete", str(source), *arguments])
    except SystemExit as error:
        ended = int(str(error.code))
    out, err = capsys.readouterr()
    assert (ended, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) <= 2


def test_a_stream_that_ends_with_an_error_says_it(source: Path, capsys) -> None:
    """As ours do when an engine dies, behind what it has generated."""

    async def app(scope, receive, send) -> None:
        events = ({"choices": [{"delta": {"content": "some"}}]}, {"error": {"message": "the engine died", "code": 1}})
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        await StreamingResponse(iter([text]), media_type="text/event-stream")(scope, receive, send)

    with serving(app) as url:
        assert cli.main(["complete", str(source), "--url", url]) == 1
    assert capsys.readouterr() == ("some", "starcoder complete: the engine died\n")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file or directory"), (b"\xff\xfe", "is no text in UTF-8")]
)
def test_a_file_that_cannot_be_read(content: bytes | None, message: str, tmp_path: Path, capsys) -> None:
    path = tmp_path / "x.py"
    if content is not None:
        path.write_bytes(content)
    assert cli.main(["complete", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_standard_input_that_is_no_text(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"x = \xff"), "utf-8", "surrogateescape"))
    assert cli.main(["complete"]) == 2
    assert "standard input is no text in UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["\N{CYRILLIC SMALL LETTER KA}", "sk-sc-1\nsk-sc-2", "Bearer sk-sc-1"])
def test_what_is_no_key_is_refused_and_not_shown(
    key: str, source: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}API_KEY", key)
    assert cli.main(["complete", str(source)]) == 2
    assert capsys.readouterr().err == "starcoder complete: STARCODER_API_KEY holds no key, alone\n"


def test_another_server_than_this(source: Path, capsys) -> None:
    for status in (200, 500):
        with serving(PlainTextResponse("hello", status_code=status)) as url:
            assert cli.main(["complete", str(source), "--url", url]) == 1
            assert f"the server answered {status}, and not as this program does" in capsys.readouterr().err


def test_a_completion_of_nothing_is_told(url: str, backend: FakeBackend, source: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(backend, "tokens", lambda number: [])
    assert cli.main(["complete", str(source), "--url", url]) == 0
    assert capsys.readouterr() == ("", "(the model adds nothing here)\n")


def test_what_a_server_with_tls_wants(tmp_path: Path, source: Path, capsys) -> None:
    with serving(PlainTextResponse(""), certificate=make_certificate(tmp_path)) as url:
        assert cli.main(["complete", str(source), "--url", url.replace("https:", "http:")]) == 1
        assert "if the server speaks TLS, say https://" in capsys.readouterr().err
        assert cli.main(["complete", str(source), "--url", url]) == 1
        assert "CERTIFICATE_VERIFY_FAILED" in capsys.readouterr().err
