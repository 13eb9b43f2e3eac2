"""The ingress over a fake backend, in this process."""

from __future__ import annotations

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
