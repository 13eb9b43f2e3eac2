"""A real HTTP server over a backend that answers a known text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deployments.ingress import create_app
from deployments.limits import ApiLimits
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import FakeBackend
from tests.support.http_server import serving
from tests.support.tokenizers import starcoder_rules


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(starcoder_rules())


@pytest.fixture
def fake_backend(tokenizer: Tokenizer) -> FakeBackend:
    return FakeBackend(tokenizer)


@pytest.fixture
def url(fake_backend: FakeBackend, tokenizer: Tokenizer) -> Iterator[str]:
    app = create_app(backend=fake_backend, tokenizer=tokenizer, limits=ApiLimits(max_body_bytes=100_000))
    with serving(app) as url:
        yield url
