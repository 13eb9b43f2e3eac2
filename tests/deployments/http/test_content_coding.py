"""Bodies that come compressed."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
import zlib

import httpx
import pytest

from deployments.errors import BodyTooLargeError, InvalidRequestError
from deployments.http.content_coding import decoded
from tests.support.fake_backend import FakeBackend

BODY = json.dumps({"prompt": "a" * 150, "max_tokens": 2}).encode()
RAW = zlib.compressobj(wbits=-15)
DEFLATED = RAW.compress(BODY) + RAW.flush()
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("GZip", gzip.compress(BODY[:9], mtime=0) + gzip.compress(BODY[9:], mtime=0)),
        ("x-gzip", gzip.compress(BODY, mtime=0)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", DEFLATED),
        ("identity", BODY),
        ("identity, gzip", gzip.compress(BODY, mtime=0)),
        ("", BODY),
    ],
)
async def test_a_body_is_decoded(
    client: httpx.AsyncClient, fake_backend: FakeBackend, coding: str, body: bytes
) -> None:
    for path in ("/v1/completions", "/completion"):
        response = await client.post(path, content=body, headers={**JSON, "content-encoding": coding})
        assert response.status_code == 200, response.text
    first, second = fake_backend.requests
    assert first.prompts == second.prompts == [fake_backend.tokenizer.encode("a" * 150)]


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "gzip;q=1", "x" * 5000])
async def test_other_codings_are_refused(client: httpx.AsyncClient, coding: str) -> None:
    response = await client.post("/v1/completions", content=BODY, headers={**JSON, "content-encoding": coding})
    assert response.status_code == 415
    assert response.json()["error"]["code"] == "unsupported_content_encoding"
    assert response.headers["accept-encoding"] == "gzip, deflate"
    assert len(response.content) < 400


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", BODY),
        ("gzip", gzip.compress(BODY, mtime=0)[:-9]),
        ("gzip", gzip.compress(BODY, mtime=0) + b"x"),
        ("gzip", gzip.compress(b"", mtime=0) * 5000),
        ("deflate", gzip.compress(BODY, mtime=0)),
        ("deflate", zlib.compress(BODY) * 2),
    ],
)
async def test_a_body_that_is_not_what_it_says(client: httpx.AsyncClient, coding: str, body: bytes) -> None:
    response = await client.post("/v1/completions", content=body, headers={**JSON, "content-encoding": coding})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_content_encoding"


async def test_a_bomb_costs_no_more_than_the_limit(client: httpx.AsyncClient, fake_backend: FakeBackend) -> None:
    bomb = gzip.compress(b" " * 60_000_000, mtime=0)
    assert len(bomb) < 100_000
    response = await client.post("/api/generate", content=bomb, headers={**JSON, "content-encoding": "gzip"})
    assert response.status_code == 413
    assert "when it is decoded" in response.json()["error"]
    assert fake_backend.requests == []
    tracemalloc.start()
    with pytest.raises(BodyTooLargeError):
        decoded(bomb, "gzip", 100_000)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_body_of_many_members_is_given_up_soon() -> None:
    """Each is copied with all that follow: 4 MB of empty ones would be read for minutes."""
    began = time.thread_time()
    with pytest.raises(InvalidRequestError):
        decoded(gzip.compress(b"", mtime=0) * 200_000, "gzip", 4 << 20)
    assert time.thread_time() - began < 2


def test_the_limit_itself_is_allowed() -> None:
    for size in (0, 999, 1000):
        assert decoded(gzip.compress(b"a" * size, mtime=0), "gzip", 1000) == b"a" * size
    with pytest.raises(BodyTooLargeError):
        decoded(gzip.compress(b"a" * 1000, mtime=0) + gzip.compress(b"a", mtime=0), "gzip", 1000)
