"""The embedded model behind the whole server, but for Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest_asyncio

from deployments.ingress import create_app
from deployments.protocol import ModelInfo
from model.config import EngineConfig
from model.pico import CHECKPOINT
from model.text.tokenizer import Tokenizer
from tests.support.local_backend import LocalBackend
from tests.support.ranks import RankGroup


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def pico() -> AsyncIterator[httpx.AsyncClient]:
    """A client of it."""
    config = EngineConfig(model=str(CHECKPOINT), dtype="float32", device="cpu", num_kv_blocks=200, num_threads=1)
    group = await asyncio.to_thread(RankGroup(config).__enter__)
    try:
        async with group.client() as engine:
            tokenizer = Tokenizer.from_checkpoint(CHECKPOINT)
            backend = LocalBackend(engine, tokenizer, ModelInfo(id="pico", max_model_len=2048, created=1))
            transport = httpx.ASGITransport(create_app(backend=backend, tokenizer=tokenizer))
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                yield client
    finally:
        group.__exit__()
