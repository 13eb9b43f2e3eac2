"""A real HTTP server over a backend that answers a known text."""

from __future__ import annotations

from tests.support.fake_app import app, fake_backend, served, shared_app, stage, tokenizer, url  # noqa: F401
