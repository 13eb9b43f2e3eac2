"""What documented programs say that they print is what they print, with the model that they name behind all but Ray."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from deployments.clients.reference import SERVER
from deployments.clients.registry import clients
from tests.support.embedded_app import embedded_server

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address() -> AsyncIterator[str]:
    async with embedded_server(SERVER.model) as url:
        yield url


@pytest.mark.parametrize("name", ["openai-python", "mistralai-python", "huggingface-hub-python", "ollama-python"])
async def test_documented_programs_print_what_they_say(address: str, name: str) -> None:
    """A comment after their first `print` says it."""
    code = clients()[name].configured(replace(SERVER, origin=address))
    wanted = re.findall(r"print\(.*\)  # (.+)", code)
    printed: list[str] = []
    names = {"print": lambda text, end="\n": printed.append(text + end)}
    await asyncio.to_thread(exec, compile(code, name, "exec"), names)
    assert [line.strip() for line in "".join(printed).splitlines()][:1] == wanted
