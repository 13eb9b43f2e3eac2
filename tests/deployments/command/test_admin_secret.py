"""The first administrator's key on Kubernetes: from the command into one Secret, and nowhere else."""

from __future__ import annotations

import asyncio
import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from deployments.command import admin_secret
from deployments.command.admin_secret import ClusterSecret, run
from deployments.teams.keys import Pepper
from deployments.teams.store import Store
from tests.support.certificates import make_certificate
from tests.support.http_server import serving
from tests.support.postgres import Postgres

KEY = "sk-sc-of-an-administrator"
TOKEN = "token-of-the-account"


class ApiServer:
    """Kubernetes', as far as one Secret. failures: so many patches fail first."""

    def __init__(self) -> None:
        self.secret: dict[str, Any] = {"kind": "Secret", "metadata": {"name": "first"}}
        self.failures = 0
        self.patched = 0
        path = "/api/v1/namespaces/here/secrets/first"
        self.app = Starlette(routes=[Route(path, self.get), Route(path, self.patch, methods=["PATCH"])])

    async def get(self, request: Request) -> JSONResponse:
        return JSONResponse(self.secret, 200 if self._knows(request) else 401)

    async def patch(self, request: Request) -> JSONResponse:
        self.patched += 1
        if not self._knows(request) or request.headers["content-type"] != "application/merge-patch+json":
            return JSONResponse({}, 401)
        if self.patched <= self.failures:
            return JSONResponse({}, 503)
        self.secret |= await request.json()
        return JSONResponse(self.secret)

    def _knows(self, request: Request) -> bool:
        return request.headers.get("authorization") == f"Bearer {TOKEN}"


@pytest.fixture
def server() -> ApiServer:
    return ApiServer()


@pytest.fixture
def account(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "namespace").write_text("here")
    return tmp_path


@pytest.fixture
def secret(server: ApiServer, account: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterSecret]:
    certificate = make_certificate(account)
    (account / "ca.crt").write_bytes(certificate.chain.read_bytes())
    monkeypatch.setattr(admin_secret, "_RETRY_S", 0.01)
    with serving(server.app, certificate=certificate) as url:
        yield ClusterSecret("first", url, account)


def test_a_new_key_is_put_there(secret: ClusterSecret, server: ApiServer) -> None:
    assert run(secret, lambda: KEY) == "The Secret first has the first administrator's key."
    assert base64.b64decode(server.secret["data"]["key"]).decode() == KEY
    assert run(secret, lambda: pytest.fail("a second key")) == "The Secret first has a key."


def test_an_older_key_is_left_alone(secret: ClusterSecret, server: ApiServer) -> None:
    assert "already, and it is not in the Secret" in run(secret, lambda: "")
    assert server.patched == 0


def test_an_api_server_that_is_away_for_a_moment_is_waited_for(secret: ClusterSecret, server: ApiServer) -> None:
    server.failures = 3
    run(secret, lambda: KEY)
    assert server.secret["data"]
    assert server.patched == 4


def test_no_key_is_made_that_could_be_put_nowhere(account: Path, server: ApiServer, secret: ClusterSecret) -> None:
    (account / "token").write_text("another")
    with serving(server.app, certificate=make_certificate(account, "other")) as url:
        (account / "ca.crt").write_bytes((account / "other.crt").read_bytes())
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            run(ClusterSecret("first", url, account), lambda: pytest.fail("a key"))
        (account / "ca.crt").write_bytes((account / "server.crt").read_bytes())
        with pytest.raises(httpx.ConnectError):  # somebody else's server gets no token
            run(ClusterSecret("first", url, account), lambda: pytest.fail("a key"))


def test_a_key_that_could_not_be_put_there_is_in_no_message(
    secret: ClusterSecret, server: ApiServer, capfd: pytest.CaptureFixture[str]
) -> None:
    server.failures = 10**6
    with pytest.raises(httpx.HTTPStatusError) as failed:
        run(secret, lambda: KEY, patience_s=0.1)
    assert KEY not in f"{failed.value!r} {failed.getrepr()} {capfd.readouterr()}"


def test_the_command_is_asked_for_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def answer(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        assert options == {"stdout": subprocess.PIPE, "text": True, "check": True}
        return subprocess.CompletedProcess(command, 0, f"{KEY}\n")

    monkeypatch.setattr(subprocess, "run", answer)
    assert admin_secret.make_key() == KEY
    assert asked[0][2:] == ["deployments.command.cli", "keys", "create", "--admin", "--name", "bootstrap", "--if-none"]


async def test_the_first_key_of_a_new_database(
    secret: ClusterSecret,
    server: ApiServer,
    postgres: Postgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
) -> None:
    """As the Job finds it: a PostgreSQL with nothing in it, and a pepper that may only be read."""
    pepper = tmp_path / "pepper"
    pepper.write_text("p" * 64)
    pepper.chmod(0o440)
    url = postgres.url(await postgres.create())
    monkeypatch.setenv("STARCODER_TEAMS__DATABASE", url)
    monkeypatch.setenv("STARCODER_TEAMS__PEPPER_FILE", str(pepper))
    await asyncio.to_thread(run, secret)
    key = base64.b64decode(server.secret["data"]["key"]).decode()
    said = capfd.readouterr()
    assert key not in f"{said.out}{said.err}"
    del server.secret["data"]  # whoever has taken it empties the Secret
    assert "already" in await asyncio.to_thread(run, secret)
    store = await Store.open(url)
    try:
        snapshot = await store.snapshot()
    finally:
        await store.close()
    assert snapshot is not None
    [made] = snapshot.keys.values()
    assert (made.digest, made.team_id, made.name) == (Pepper.from_file(pepper).digest(key), None, "bootstrap")


def test_a_pod_without_an_account_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not admin_secret.ACCOUNT.exists()
    assert admin_secret.main(["--secret", "first"]) == 1
    assert "no key was put into the Secret first: " in capsys.readouterr().err


@pytest.mark.parametrize(("patience_s", "tries"), [(0.0, 1), (1.0, 2), (4.0, 3), (4.5, 4)])
def test_an_api_server_is_asked_until_there_is_no_time_left(
    patience_s: float, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every two seconds."""
    now, tried = [100.0], list[str]()

    def fill(key: str) -> None:
        tried.append(key)
        raise httpx.ConnectError("it is away")

    def sleep(seconds: float) -> None:
        assert seconds == 2.0
        now[0] += seconds

    monkeypatch.setattr(admin_secret, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    secret: Any = SimpleNamespace(name="first", is_filled=lambda: False, fill=fill)
    with pytest.raises(httpx.ConnectError):
        run(secret, lambda: KEY, patience_s)
    assert tried == [KEY] * tries
    secret.fill = tried.append
    assert run(secret, lambda: KEY, patience_s) == "The Secret first has the first administrator's key."
    said = "There is an administrator's key already, and it is not in the Secret first."
    assert run(secret, lambda: "", patience_s) == said


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("away"), OSError("away"), subprocess.CalledProcessError(1, ["starcoder"])]
)
def test_the_job_ends_as_its_secret_was_filled(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(secret: object) -> str:
        raise error

    monkeypatch.setattr(admin_secret, "ClusterSecret", lambda name: name)
    monkeypatch.setattr(admin_secret, "run", lambda secret: f"The Secret {secret} has a key.")
    assert admin_secret.main(["--secret", "first"]) == 0
    assert capsys.readouterr() == ("The Secret first has a key.\n", "")
    monkeypatch.setattr(admin_secret, "run", fail)
    assert admin_secret.main(["--secret", "first"]) == 1
    assert capsys.readouterr() == ("", f"no key was put into the Secret first: {error}\n")
