"""What documented programs say that they print is what they print, with the embedded model behind all but Ray."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import uvicorn

from deployments.clients.client import Server
from deployments.clients.registry import clients
from deployments.ingress import create_app
from deployments.protocol import ModelInfo
from model.config import EngineConfig
from model.pico import CHECKPOINT
from model.text.tokenizer import Tokenizer
from tests.support.local_backend import LocalBackend
from tests.support.ranks import RankGroup

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pico_address() -> AsyncIterator[str]:
    """Of a server in the loop that the engine is used in."""
    config = EngineConfig(model=str(CHECKPOINT), dtype="float32", device="cpu", num_kv_blocks=200, num_threads=1)
    group = await asyncio.to_thread(RankGroup(config).__enter__)
    try:
        async with group.client() as engine:
            tokenizer = Tokenizer.from_checkpoint(CHECKPOINT)
            backend = LocalBackend(engine, tokenizer, ModelInfo(id="pico", max_model_len=2048, created=1))
            app = create_app(backend=backend, tokenizer=tokenizer)
            listener = socket.create_server(("127.0.0.1", 0))
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
            running = asyncio.create_task(server.serve([listener]))
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            server.should_exit = True
            await running
            listener.close()
    finally:
        group.__exit__()


@pytest.mark.parametrize("name", ["openai-python", "mistralai-python", "huggingface-hub-python", "ollama-python"])
async def test_documented_programs_print_what_they_say(pico_address: str, name: str) -> None:
    """A comment after their first `print` says it."""
    code = clients()[name].configured(Server(pico_address, "pico", window=2048))
    wanted = re.findall(r"print\(.*\)  # (.+)", code)
    printed: list[str] = []
    names = {"print": lambda text, end="\n": printed.append(text + end)}
    await asyncio.to_thread(exec, compile(code, name, "exec"), names)
    assert [line.strip() for line in "".join(printed).splitlines()][:1] == wanted
