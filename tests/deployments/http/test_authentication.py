"""Who gets in: every route, every dialect's way to send a key, and every dialect's way to say no."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.routing import Mount, Route

from deployments.errors import ForbiddenError, UnauthorizedError
from deployments.http.authentication import MAX_KEY_CHARS, check, credential
from deployments.http.needs import Need, Needs
from deployments.http.needs import needs as needs_of
from deployments.ingress import create_app
from deployments.teams.keys import new_key
from deployments.teams.principal import Principal
from deployments.teams.records import Scope
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import FakeBackend
from tests.support.gatekeepers import Keyring
from tests.support.log_lines import captured

BODY = {"prompt": "x", "max_tokens": 2}
PUBLIC = {
    "/",
    "/docs",
    "/health",
    "/health/live",
    "/login/session",
    "/teams",
    "/version",
    "/terms",
    "/model-card",
    "/openapi.json",
}


@pytest.fixture(scope="module")
def gatekeeper() -> Keyring:
    return Keyring()


@pytest.fixture(scope="module")
def closed_app(gatekeeper: Keyring, tokenizer: Tokenizer) -> FastAPI:
    return create_app(backend=FakeBackend(tokenizer), tokenizer=tokenizer, gatekeeper=gatekeeper)


@pytest.fixture
def keyring(gatekeeper: Keyring) -> Keyring:
    """Of `closed_app`, without the keys of other tests."""
    gatekeeper.closed, gatekeeper.asked = True, 0
    gatekeeper.principals.clear()
    return gatekeeper


@pytest.fixture
async def closed(closed_app: FastAPI, keyring: Keyring) -> AsyncIterator[httpx.AsyncClient]:
    """Whatever the test before did to the keyring that the module shares."""
    transport = httpx.ASGITransport(closed_app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """Every method and path of the app, with something in place of parameters."""
    found = [
        (method, "/".join("x" if "{" in part else part for part in route.path.split("/")))
        for route in app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
    ]
    assert len(found) > 40
    return found


async def test_without_a_key_nothing_but_pages_and_probes_answers(
    closed: httpx.AsyncClient, closed_app: FastAPI
) -> None:
    """A route that somebody adds is closed unless it says otherwise."""
    for method, path in routes(closed_app):
        response = await closed.request(method, path, content=b"{}" if method == "POST" else None)
        public = method in ("GET", "HEAD") and (path in PUBLIC or path.startswith(("/playground/", "/docs/")))
        assert (response.status_code != 401) == public, (method, path)


async def test_no_spelling_of_a_path_takes_its_need_away(
    closed: httpx.AsyncClient, closed_app: FastAPI, keyring: Keyring
) -> None:
    """A key that may only read usage is refused wherever it was refused, or there is nothing."""
    headers = {"authorization": f"Bearer {keyring.add(scopes=('usage',))}"}
    refused = 0
    for method, path in routes(closed_app):
        content = b"{}" if method == "POST" else None
        if (await closed.request(method, path, content=content, headers=headers)).status_code != 403:
            continue
        refused += 1
        for ending in ("%0A", "%0a", "%0D%0A", "/", "%00", "//", "?x", ";x", "%20", "%2F", "/."):
            spelt = await closed.request(method, f"{path}{ending}", content=content, headers=headers)
            assert spelt.status_code in (403, 404, 405), (method, path, ending, spelt.text)
    assert refused > 20


def test_what_is_needed_is_what_starlette_routes_to(closed_app: FastAPI) -> None:
    """Without the door, which refuses such paths already."""
    above = Mount("/above", routes=[])  # which is no route, and nothing after it is forgotten
    needs = Needs([above, Route("/metrics", _metrics), Route("/{name}", _metrics, methods=["POST"])])
    assert needs("POST", "/x") == "metrics"
    assert needs("PUT", "/x") == needs("GET", "/x") == needs("GET", "/above") == "key"
    assert needs("GET", "/metrics") == needs("GET", "/metrics\n") == needs("HEAD", "/metrics") == "metrics"
    assert needs("GET", "/metrics/") == "key"


@needs_of("metrics")
async def _metrics(request: Any) -> None:
    pass


async def test_what_is_no_route_tells_strangers_nothing(closed: httpx.AsyncClient, keyring: Keyring) -> None:
    for path in ("/no/such/path", "/v1/completions/", "/v1/models/x"):
        assert (await closed.get(path)).status_code == 401
    assert (await closed.put("/v1/completions")).status_code == 401
    key = keyring.add()
    assert (await closed.get("/no/such/path", headers={"x-api-key": key})).status_code == 404


@pytest.mark.parametrize("way", ["authorization", "x-api-key", "api-key", "lower", "spaces"])
async def test_every_way_to_send_a_key(closed: httpx.AsyncClient, keyring: Keyring, way: str) -> None:
    key = keyring.add()
    headers = {
        "authorization": {"authorization": f"Bearer {key}"},
        "x-api-key": {"x-api-key": key},
        "api-key": {"api-key": key},
        "lower": {"authorization": f"bearer {key}"},
        "spaces": {"authorization": f"Bearer   {key}  "},
    }[way]
    assert (await closed.post("/v1/completions", json=BODY, headers=headers)).status_code == 200
    assert (await closed.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/v1/completions", lambda body: body["error"]["message"]),
        ("/v1/chat/completions", lambda body: body["error"]["message"]),
        ("/api/generate", lambda body: body["error"]),
        ("/generate", lambda body: body["error"]),
        ("/infill", lambda body: body["error"]["message"]),
        ("/v1/fim/completions", lambda body: body["error"]["message"]),
    ],
)
async def test_the_refusal_has_the_dialects_shape(closed: httpx.AsyncClient, path: str, message: Any) -> None:
    response = await closed.post(path, json=BODY)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert "API key" in message(response.json())


@pytest.mark.usefixtures("keyring")
async def test_a_strangers_body_is_not_read(closed_app: FastAPI) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        pytest.fail("somebody reads the body")

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"test"), (b"content-length", b"4000000"), (b"authorization", f"Bearer {new_key()}".encode())]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "query_string": b"",
        "headers": headers,
        "server": ("test", 80),
        "client": ("127.0.0.1", 1),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
    }
    await closed_app(scope, receive, send)
    assert sent[0]["status"] == 401
    assert json.loads(sent[1]["body"])["error"]["code"] == "invalid_api_key"


async def test_scopes(closed: httpx.AsyncClient, keyring: Keyring) -> None:
    admin, reader = keyring.add(None, ("admin",)), keyring.add(scopes=("usage",))
    watcher = keyring.add("ops", ("metrics",))

    async def status(key: str, method: str, path: str) -> int:
        json_body = BODY if method == "POST" else None
        response = await closed.request(method, path, json=json_body, headers={"authorization": f"Bearer {key}"})
        return response.status_code

    assert [await status(key, "GET", "/v1/models") for key in (admin, reader, watcher)] == [200, 200, 200]
    assert [await status(key, "POST", "/v1/completions") for key in (admin, reader, watcher)] == [403, 403, 403]
    assert [await status(key, "GET", "/metrics") for key in (admin, reader, watcher)] == [200, 403, 200]


@pytest.mark.parametrize(
    ("scopes", "need", "allowed"),
    [
        (("generate",), "generate", True),
        (("generate",), "admin", False),
        (("generate",), "metrics", False),
        (("generate",), "key", True),
        ((), "key", True),
        ((), "public", True),
        (("admin",), "admin", True),
        (("admin",), "usage", True),
        (("admin",), "generate", False),
        (("admin", "generate"), "generate", True),
    ],
)
def test_what_scopes_allow(scopes: tuple[Scope, ...], need: Need, allowed: bool) -> None:
    principal = Principal(team=None, scopes=scopes)
    if allowed:
        check(principal, need)
    else:
        with pytest.raises(ForbiddenError):
            check(principal, need)


async def test_while_it_is_open_nobody_is_asked(closed: httpx.AsyncClient, keyring: Keyring) -> None:
    keyring.closed = False
    for headers in ({}, {"authorization": "Bearer dummy"}, {"authorization": "Basic xyz"}):
        assert (await closed.post("/v1/completions", json=BODY, headers=headers)).status_code == 200
        assert (await closed.get("/metrics", headers=headers)).status_code == 200
    assert keyring.asked == 0


def test_what_cannot_be_a_key_is_refused() -> None:
    assert credential(Headers({})) is None
    assert credential(Headers({"authorization": ""})) is None
    assert credential(Headers({"authorization": "Bearer"})) is None
    assert credential(Headers({"authorization": "Bearer a", "x-api-key": "b"})) == "a"
    for headers in ({"authorization": "Basic abc"}, {"x-api-key": "x" * (MAX_KEY_CHARS + 1)}):
        with pytest.raises(UnauthorizedError):
            credential(Headers(headers))


async def test_the_log_says_whose_it_was_and_never_the_key(closed: httpx.AsyncClient, keyring: Keyring) -> None:
    key, unknown = keyring.add("red"), new_key()
    with captured("debug") as lines:
        await closed.post("/v1/completions", json=BODY, headers={"authorization": f"Bearer {key}"})
        await closed.post("/v1/completions", json=BODY, headers={"authorization": f"Bearer {unknown}"})
        answered, refused = lines.requests()
    assert (answered["team"], answered["key"]) == ("red", "key_0")
    assert (refused["status"], refused["outcome"], refused["error"]["code"]) == (401, "refused", "invalid_api_key")
    assert key[6:] not in lines.text
    assert unknown[6:] not in lines.text
