"""Names that the server goes by, and web pages of other origins."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from deployments.errors import ServeError
from deployments.http.door import Access, DoorMiddleware, is_loopback
from deployments.ingress import create_app
from model.text.tokenizer import Tokenizer
from tests.deployments.http.test_middleware import nobody, told
from tests.support.accounts import asking
from tests.support.fake_backend import FakeBackend

LOOPBACK = Access("127.0.0.1")
EVERYWHERE = Access("0.0.0.0")
EDITORS = Access("127.0.0.1", origins=("https://ide.example.com", "vscode-webview://*"))
BODY = {"prompt": "x", "max_tokens": 2}
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,x-session-id"}


ClientOf = Callable[..., httpx.AsyncClient]


@pytest.fixture(scope="module")
def client_of(tokenizer: Tokenizer) -> ClientOf:
    """Of an app with this access, which tests share."""

    @cache
    def app_of(access: Access) -> FastAPI:
        return create_app(backend=FakeBackend(tokenizer), tokenizer=tokenizer, access=access)

    def client(access: Access, base: str = "http://127.0.0.1:8000") -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app_of(access), raise_app_exceptions=False), base_url=base
        )

    return client


@pytest.mark.parametrize(
    ("access", "host", "welcome"),
    [
        (LOOPBACK, "127.0.0.1:8000", True),
        (LOOPBACK, "localhost", True),
        (LOOPBACK, "LocalHost:8000", True),
        (LOOPBACK, "localhost.:8000", True),
        (LOOPBACK, "[::1]:8000", True),
        (LOOPBACK, "evil.example:8000", False),
        (LOOPBACK, "localhost.evil.example", False),
        (LOOPBACK, "evil.example#localhost", False),
        (LOOPBACK, "localhost@evil.example", False),
        (LOOPBACK, "0.0.0.0:8000", False),
        (LOOPBACK, "192.168.0.7", False),
        (LOOPBACK, "", False),
        (Access("127.0.0.2"), "127.0.0.2", True),
        (Access("::1"), "[::1]", True),
        (Access("localhost"), "evil.example", False),
        (Access("127.0.0.1", hosts=("ide.test", "*.corp.test")), "IDE.test:80", True),
        (Access("127.0.0.1", hosts=("ide.test", "*.corp.test")), "a.b.corp.test", True),
        (Access("127.0.0.1", hosts=("ide.test", "*.corp.test")), "corp.test", False),
        (Access("127.0.0.1", hosts=("ide.test",)), "localhost", True),
        (EVERYWHERE, "anything.example", True),
        (EVERYWHERE, "10.0.0.3:8000", True),
        (Access("0.0.0.0", hosts=("ide.test",)), "anything.example", False),
        (Access("0.0.0.0", hosts=("ide.test",)), "ide.test", True),
        (Access("0.0.0.0", hosts=("*",)), "anything.example", True),
    ],
)
async def test_the_server_goes_by_its_names(access: Access, host: str, welcome: bool, client_of: ClientOf) -> None:
    async with client_of(access) as client:
        for method, path in (("GET", "/version"), ("GET", "/"), ("POST", "/v1/completions"), ("GET", "/nowhere")):
            response = await client.request(
                method, path, headers={"host": host}, json=BODY if method == "POST" else None
            )
            assert (response.status_code == 403) is not welcome, response.text
            if not welcome:
                assert response.json()["error"]["code"] == "host_not_allowed"
                assert response.headers["x-request-id"]


async def test_a_server_that_listens_elsewhere_than_it_was_told(client_of: ClientOf) -> None:
    """`serve deploy` listens where its own file says: a connection from elsewhere shows it."""
    async with client_of(LOOPBACK, base="http://10.0.0.3:8000") as client:
        assert (await client.get("/version")).status_code == 200


@pytest.mark.parametrize(
    ("access", "origin", "welcome"),
    [
        (LOOPBACK, None, True),
        (LOOPBACK, "http://127.0.0.1:8000", True),
        (LOOPBACK, "https://127.0.0.1:8000", True),
        (LOOPBACK, "http://127.0.0.1:3000", False),
        (LOOPBACK, "http://localhost:8000", False),
        (LOOPBACK, "https://evil.example", False),
        (LOOPBACK, "null", False),
        (LOOPBACK, "", False),
        (LOOPBACK, "http://[", False),
        (LOOPBACK, "http://127.0.0.1:99999", False),
        (LOOPBACK, "vscode-webview://1a2b", False),
        (EVERYWHERE, "https://evil.example", False),
        (EDITORS, "vscode-webview://1a2b", True),
        (EDITORS, "https://ide.example.com", True),
        (EDITORS, "https://ide.example.com.evil.example", False),
        (EDITORS, "https://evil.example", False),
        (Access(origins=("*",)), "https://evil.example", True),
        (Access(origins=("null",)), "null", True),
    ],
)
async def test_pages_of_other_origins(access: Access, origin: str | None, welcome: bool, client_of: ClientOf) -> None:
    headers = {} if origin is None else {"origin": origin}
    async with client_of(access) as client:
        answers = [
            await client.post("/v1/completions", json=BODY, headers=headers),
            await client.post("/v1/completions", json={}, headers=headers),
            await client.get("/version", headers=headers),
        ]
        asked = await client.options("/v1/completions", headers={**headers, **PREFLIGHT})
    if not welcome:
        assert [answer.status_code for answer in (*answers, asked)] == [403] * 4
        assert answers[0].json()["error"]["code"] == "origin_not_allowed"
        assert "access-control-allow-origin" not in answers[0].headers
        return
    assert [answer.status_code for answer in answers] == [200, 400, 200]
    if access.origins:
        # The answer to a refused request may be read as well, and so may what it is called.
        assert all(answer.headers["access-control-allow-origin"] in ("*", origin) for answer in (*answers, asked))
        assert "x-request-id" in answers[1].headers["access-control-expose-headers"]
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-headers"] == PREFLIGHT["access-control-request-headers"]
    else:
        assert asked.status_code == 405
        assert "access-control-allow-origin" not in answers[0].headers


@pytest.mark.parametrize(
    ("origin", "welcome"),
    [
        ("https://ide.test", True),
        ("https://ide.test:443", True),
        ("http://ide.test", False),
        ("http://ide.test:443", False),
    ],
)
async def test_what_is_read_in_the_clear_does_not_speak_to_a_server_with_tls(
    origin: str, welcome: bool, client_of: ClientOf
) -> None:
    async with client_of(EVERYWHERE, base="https://ide.test") as client:
        answered = await client.post("/v1/completions", json=BODY, headers={"origin": origin})
    assert answered.status_code == (200 if welcome else 403)


async def test_same_origin_behind_a_proxy_that_speaks_tls(client_of: ClientOf) -> None:
    async with client_of(EVERYWHERE) as client:
        headers = {"host": "code.example.com", "origin": "https://code.example.com"}
        assert (await client.post("/v1/completions", json=BODY, headers=headers)).status_code == 200
        headers["host"] = "code.example.com:443"
        assert (await client.post("/v1/completions", json=BODY, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("10.0.0.3", False),
        ("0.0.0.0", False),
        ("::", False),
        ("ide.test", False),
        ("", False),
        (None, False),
    ],
)
def test_which_addresses_only_this_machine_reaches(address: str | None, found: bool) -> None:
    assert is_loopback(address) is found


@pytest.mark.parametrize(
    ("access", "local", "answers"),
    [
        (LOOPBACK, None, False),
        (LOOPBACK, "127.0.0.1", False),
        (LOOPBACK, "10.0.0.3", True),
        (EVERYWHERE, "127.0.0.1", True),
        (Access(), "127.0.0.1", True),
        (Access(hosts=("ide.test",)), "10.0.0.3", False),
    ],
)
def test_another_name_will_do_where_others_reach_the_server_and_it_has_none(
    access: Access, local: str | None, answers: bool
) -> None:
    assert access.answers_to("other.test", local) is answers


@pytest.mark.parametrize(
    ("origin", "host", "scheme", "same"),
    [
        ("http://ide.test", "ide.test:80", "http", True),
        ("https://ide.test", "ide.test:443", "http", True),
        ("https://ide.test", "ide.test:80", "http", False),
        ("https://ide.test:80", "ide.test:80", "http", True),
        ("http://ide.test", "", "http", False),
        ("http://ide.test", "ide.test:99999", "http", False),
        ("http://[::1", "ide.test", "http", False),
        ("http://IDE.test", "ide.TEST", "http", True),
        ("app://ide.test", "ide.test", "http", False),
        ("http://ide.test", "ide.test", "https", False),
        ("https://ide.test", "ide.test", "https", True),
    ],
)
def test_which_pages_come_from_here(origin: str, host: str, scheme: str, same: bool) -> None:
    """By name and port; a scheme without a port that everybody knows is of no page of ours."""
    assert Access().welcomes(origin, host, scheme) is same


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/v1/x\x00", {}, 404),
        ("/v1/x\x7f", {"host": "evil.example"}, 404),
        ("/v1/x\x1f", {}, 404),
        ("/v1/x", {"host": "evil.example"}, 403),
        ("/v1/x", {"host": "localhost", "origin": "http://evil.example"}, 403),
        ("/v1/x", {"origin": "http://localhost"}, 403),
        ("/v1/x ~\x80", {"host": "localhost", "origin": "http://localhost"}, 200),
    ],
)
async def test_what_is_refused_at_the_door_is_noted_and_of_posts_told(
    method: str, path: str, fields: dict[str, str], status: int
) -> None:
    refused, passed = list[ServeError](), list[int]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(200)

    headers = [(name.encode(), value.encode()) for name, value in fields.items()]
    scope: Scope = {"type": "http", "method": method, "path": path, "headers": headers}
    with asking() as record:
        sent = await told(DoorMiddleware(app, LOOPBACK, refused.append), scope)
    assert [*passed, *(message["status"] for message in sent if "status" in message)] == [status]
    assert [error.status for error in refused] == ([status] if method == "POST" and status != 200 else [])
    assert (record.error.status if record.error else 200) == status


def test_two_names_are_both_to_be_the_servers() -> None:
    """Who is behind a proxy that reads the first may read the other."""
    door = DoorMiddleware(nobody, LOOPBACK, nobody)
    for hosts, refused in ((["localhost", "localhost"], False), (["localhost", "evil.example"], True)):
        headers = [(b"host", host.encode()) for host in hosts]
        scope = {"type": "http", "method": "GET", "path": "/", "headers": headers, "server": ("127.0.0.1", 80)}
        assert (door._problem(scope) is not None) is refused
