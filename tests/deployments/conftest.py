"""The ingress over a fake backend, in this process."""

from __future__ import annotations

from tests.support.fake_app import app, client, fake_backend, page, tokenizer, url, watched  # noqa: F401
from tests.support.pico_app import pico  # noqa: F401
