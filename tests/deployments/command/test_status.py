"""How a running server is, in words and as JSON."""

from __future__ import annotations

import json

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from deployments.command import cli
from deployments.command.connection import URL_VARIABLE
from deployments.command.ports import free_port
from deployments.command.status import ago
from deployments.health import EngineHealth, HealthReport, Member
from tests.support.fake_backend import FakeBackend
from tests.support.http_server import serving

ENGINES = [
    EngineHealth(
        id="aaaa", state="ready", since=1.0, running=3, waiting=1, kv_cache_usage=0.25, heartbeat_seconds=0.012
    ),
    EngineHealth(id="bbbb", state="starting", since=2.0, version="0.0.9"),
]


@pytest.fixture
def report(fake_backend: FakeBackend) -> HealthReport:
    fake_backend.report = msgspec.structs.replace(
        fake_backend.report, running=3, engines=ENGINES, ingresses=[Member(id="cccc", state="ready", since=0.0)]
    )
    return fake_backend.report


@pytest.fixture(autouse=True)
def of_the_server(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL_VARIABLE, url)


def test_it_says_what_there_is(report: HealthReport, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{url}: ready\nversion ")
    assert "queue: 3 running, 2 waiting; cache in use: 50%" in told
    assert "1 of 2 engines ready" in told
    lines = [line.split() for line in told.splitlines()]
    (first,) = [line for line in lines if line[:1] == ["aaaa"]]
    assert first[1] == "ready"
    assert first[-5:] == ["3", "1", "25%", "12", "ms"]
    assert [line[:2] for line in lines if line[:1] in (["bbbb"], ["cccc"])] == [["bbbb", "starting"], ["cccc", "ready"]]
    assert "other versions than who answered: 0.0.9" in told


@pytest.mark.parametrize(("draining", "word"), [(True, "draining"), (False, "no engine is ready")])
def test_where_nothing_should_be_sent_it_ends_with_1(
    draining: bool, word: str, report: HealthReport, fake_backend: FakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_backend.report = msgspec.structs.replace(report, healthy=False, draining=draining, reason="because")
    assert cli.main(["status"]) == 1
    assert f": {word}" in (told := capsys.readouterr().out)
    assert "\n  because\n" in told
    assert cli.main(["status", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["status"] == ("draining" if draining else "unavailable")
    assert [engine["id"] for engine in answer["engines"]] == ["aaaa", "bbbb"]
    assert answer["version"]["version"]


def test_no_server_and_another_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--url", f"http://127.0.0.1:{free_port()}"]) == 1
    assert "starcoder status: no server at http" in capsys.readouterr().err
    other = Starlette(routes=[Route("/health", lambda _: PlainTextResponse("fine"))])
    with serving(other) as url:
        assert cli.main(["status", "--url", url]) == 1
    assert "does not answer as this program's server does" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (59.6, "1 min 0 s"), (3700, "1 h 1 min"), (200_000, "2 d 7 h")]
)
def test_times_have_two_units(seconds: float, text: str) -> None:
    assert ago(seconds) == text
