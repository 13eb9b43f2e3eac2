"""The ingress over a fake backend, in this process; and one PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.embedded_app import nano, pico  # noqa: F401
from tests.support.fake_app import (  # noqa: F401
    app,
    client,
    fake_backend,
    new_app,
    new_client,
    page,
    served,
    shared_app,
    stage,
    tokenizer,
    url,
    watched,
    wide_app,
    wide_url,
)
from tests.support.postgres import Postgres, running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running() as server:
        yield server
