"""An embedded model behind the whole server, but for Ray. It knows of two files of what it learned from."""

from __future__ import annotations

import asyncio
import inspect
import profile
import pstats
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import uvicorn
from fastapi import FastAPI

from deployments.attribution.backend import Attributor
from deployments.attribution.build import build
from deployments.ingress import create_app
from deployments.protocol import ModelInfo
from model.checkpoint.hub import resolve_checkpoint
from model.config import EngineConfig
from model.text.tokenizer import Tokenizer
from tests.support.local_backend import LocalBackend
from tests.support.ranks import RankGroup


@asynccontextmanager
async def embedded_app(name: str, attributor: Attributor | None = None) -> AsyncIterator[FastAPI]:
    checkpoint = resolve_checkpoint(name)
    config = EngineConfig(model=str(checkpoint), dtype="float32", device="cpu", num_kv_blocks=200, num_threads=1)
    group = await asyncio.to_thread(RankGroup(config).__enter__)
    try:
        async with group.client() as engine:
            tokenizer = Tokenizer.from_checkpoint(checkpoint)
            backend = LocalBackend(engine, tokenizer, ModelInfo(id=name, max_model_len=2048, created=1))
            yield create_app(backend=backend, tokenizer=tokenizer, attributor=attributor)
    finally:
        group.__exit__()


@asynccontextmanager
async def embedded_server(name: str) -> AsyncIterator[str]:
    """The address of a server in the loop that the engine is used in."""
    async with embedded_app(name) as app:
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        running = asyncio.create_task(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running
            listener.close()


@asynccontextmanager
async def _client(name: str, attributor: Attributor | None = None) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        embedded_app(name, attributor) as app,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        yield client


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def pico() -> AsyncIterator[httpx.AsyncClient]:
    """A client of it."""
    async with _client("pico") as client:
        yield client


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def nano(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A client of what is served where nobody names a model."""
    attributor = Attributor.open(_index(tmp_path_factory.mktemp("attribution")))
    async with _client("nano", attributor) as client:
        yield client
    attributor.close()


def _index(directory: Path) -> Path:
    """Of two files of Python's standard library."""
    library = directory / "python"
    library.mkdir()
    for module in (profile, pstats):
        shutil.copy(inspect.getfile(module), library)
    build([library], directory / "index")
    return directory / "index"
