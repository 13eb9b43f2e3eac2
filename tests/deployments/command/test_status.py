"""How a running server is, in words and as JSON."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

import httpx
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from deployments.api.common.health_answer import Health
from deployments.api.operations import Forward, Version
from deployments.command import cli, status
from deployments.command.connection import URL_VARIABLE
from deployments.command.ports import free_port
from deployments.command.status import ago, told
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
    said = capsys.readouterr().out
    assert said.startswith(f"{url}: ready\nversion ")
    assert "queue: 3 running, 2 waiting; cache in use: 50%" in said
    assert "1 of 2 engines ready" in said
    lines = [line.split() for line in said.splitlines()]
    (first,) = [line for line in lines if line[:1] == ["aaaa"]]
    assert first[1] == "ready"
    assert first[-5:] == ["3", "1", "25%", "12", "ms"]
    assert [line[:2] for line in lines if line[:1] in (["bbbb"], ["cccc"])] == [["bbbb", "starting"], ["cccc", "ready"]]
    assert "other versions than who answered: 0.0.9" in said


TOLD = """\
http://there: draining: it is about to stop
  because
version 0.2, forward pass: native
queue: 3 running, 12 waiting; cache in use: 50%

1 of 3 engines ready
engine  state            for  running  waiting  cache  answered in
aaaa    ready     1 min 39 s        3       12    25%        12 ms
bbbb    starting        40 s                                        loads
cc      silent           0 s                                        is away

ingress  state         for
dddd     ready  1 min 40 s

Engines run other versions than who answered: 0.0.9, 0.1
"""


def test_what_is_said_stands_in_columns() -> None:
    idle = {"running": 0, "waiting": 0, "kv_cache_usage": 0.0, "heartbeat_seconds": None}
    busy = {"running": 3, "waiting": 12, "kv_cache_usage": 0.25, "heartbeat_seconds": 0.012}
    health = Health.model_validate(
        {
            "status": "draining",
            "running": 3,
            "waiting": 12,
            "kv_cache_usage": 0.5,
            "heartbeat_seconds": 0.1,
            "engines": [
                {"id": "aaaa", "state": "ready", "since": 1.0, "reason": None, "version": "0.2", **busy},
                {"id": "bbbb", "state": "starting", "since": 60.0, "reason": "loads", "version": "0.1", **idle},
                {"id": "cc", "state": "silent", "since": 100.0, "reason": "is away", "version": "0.0.9", **idle},
            ],
            "ingresses": [{"id": "dddd", "state": "ready", "since": 0.0}],
        }
    )
    version = Version.model_construct(version="0.2", forward=Forward(path="native", reason=None, products=None))
    assert told("http://there", health, version, "because", now=100.0).splitlines() == TOLD.splitlines()
    alone = health.model_copy(update={"status": "ok", "engines": [], "ingresses": []})
    assert told("http://there", alone, Version.model_construct(version="0.2", forward=None), None, 0.0) == (
        "http://there: ready\nversion 0.2\nqueue: 3 running, 12 waiting; cache in use: 50%\n"
    )
    without = health.model_copy(update={"engines": [health.engines[0].model_copy(update={"heartbeat_seconds": None})]})
    assert " ms" not in told("http://there", without, version, None, now=100.0)


@pytest.mark.parametrize(("draining", "word"), [(True, "draining"), (False, "no engine is ready")])
def test_where_nothing_should_be_sent_it_ends_with_1(
    draining: bool, word: str, report: HealthReport, fake_backend: FakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_backend.report = msgspec.structs.replace(report, healthy=False, draining=draining, reason="because")
    assert cli.main(["status"]) == 1
    assert f": {word}" in (said := capsys.readouterr().out)
    assert "\n  because\n" in said
    assert cli.main(["status", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["status"] == ("draining" if draining else "unavailable")
    assert [engine["id"] for engine in answer["engines"]] == ["aaaa", "bbbb"]
    assert answer["version"]["version"]


def raising(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error

    return answer


@pytest.mark.parametrize(
    ("body", "answer"), [(b"[]", {}), (b"no JSON", {}), (b"null", {}), (b'{"status": "ok"}', {"status": "ok"})]
)
def test_what_is_no_object_is_no_answer_of_ours(body: bytes, answer: dict[str, str]) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body))
    with httpx.Client(transport=transport, base_url="http://there") as client:
        assert status._ask(client, "/health") == answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [({}, None), ({"error": None}, None), ({"error": "no"}, None), ({"error": {"message": "it drains"}}, "it drains")],
)
def test_why_it_is_not_ready_is_what_the_error_says(answer: dict[str, object], reason: str | None) -> None:
    assert status._error(answer) == reason


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "TIMEOUT", httpx.Timeout(10, read=0.05))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RuntimeError, match=f"^no server at {url}: timed out$"):
            status.run(["--url", url])


def test_no_server_and_another_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--url", f"http://127.0.0.1:{free_port()}"]) == 1
    assert "starcoder status: no server at http" in capsys.readouterr().err
    silent = httpx.Client(transport=httpx.MockTransport(raising(httpx.ReadTimeout(""))), base_url="http://there")
    with silent, pytest.raises(RuntimeError, match=r"^no server at http://there: ReadTimeout$"):
        status._ask(silent, "/health")
    other = Starlette(routes=[Route("/health", lambda _: PlainTextResponse("fine"))])
    with serving(other) as url:
        assert cli.main(["status", "--url", url]) == 1
    assert "does not answer as this program's server does" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((-1, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (3600, "1 h 0 min")),
        *((3700, "1 h 1 min"), (86_399, "23 h 59 min"), (86_400, "1 d 0 h"), (200_000, "2 d 7 h")),
    ],
)
def test_times_have_two_units(seconds: float, text: str) -> None:
    assert ago(seconds) == text
