"""What the embedded model fills in, asked as an editor asks: the whole server but for Ray, its rules included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from deployments.api.common.examples import SERVED_MODEL
from deployments.ingress import create_app
from deployments.protocol import ModelInfo
from model.config import EngineConfig
from model.pico import CHECKPOINT
from model.text.tokenizer import Tokenizer
from tests.support.local_backend import LocalBackend
from tests.support.ranks import RankGroup
from tests.support.samples import samples_of, sent_by_python

pytestmark = pytest.mark.asyncio(loop_scope="module")

OF_THE_REFERENCE = {
    "Continue a prompt": "getLogger(__name__)",
    "Fill the gap at a cursor": "values)",
    "Fill the gap as Tabby's clients ask": "values)",
    "Know another file": "RETRIES",
}
"""Examples at `/docs`, and what is to be in the answer."""

PUSH = "class Stack:\n    def __init__(self):\n        self._items = []\n\n    def push(self, item):\n        "
LOGGING = "import logging\n\nlogger = logging."
INFILLS = [
    ("for key, value in data.", "items", "():\n    print(key, value)\n"),
    ("    @", "property", "\n    def name(self):\n        return self._name\n"),
    ("def f(*args, **", "kwargs", "):\n    return g(*args, **kwargs)\n"),
    ("def f(*args, **kwargs):\n    return g(*args, **", "kwargs", ")\n"),
    ("def f(*", "args", ", **kwargs):\n    return g(*args, **kwargs)\n"),
    (LOGGING, "getLogger", "(__name__)\n"),
    (LOGGING + "get", "Logger", "(__name__)\n"),
    (LOGGING + "getLogger(__", "name__", ")\n"),
    ("    def push(self, item):\n        self.items.append(", "item", ")\n\n    def pop(self):\n        pass\n"),
    (PUSH + "self._items.append(", "item", ")\n"),
    ("try:\n    value = int(text)\nexcept Value", "Error", ":\n    value = 0\n"),
    ("from __future__ import", " annotations", "\n\nimport os\n"),
    ("MAX_RETRIES = 3\n\nfor attempt in range(MAX_", "RETRIES", "):\n    print(attempt)\n"),
    ("def greet(user_name):\n    print(user_", "name", ")\n"),
    ('with open(path, encoding="', "utf-8", '") as f:\n    text = f.read()\n'),
    ("    def close(self):\n        if self._file is not No", "ne", ":\n            self._file.close()\n"),
    ("from pathlib import", " Path", '\n\nroot = Path(".")\n'),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncIterator[httpx.AsyncClient]:
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


@pytest.mark.parametrize(("prefix", "middle", "suffix"), INFILLS)
async def test_known_idioms_are_filled(http: httpx.AsyncClient, prefix: str, middle: str, suffix: str) -> None:
    body = {"input_prefix": prefix, "input_suffix": suffix, "n_predict": 24, "temperature": 0}
    assert (await http.post("/infill", json=body)).json()["content"] == middle


@pytest.mark.parametrize(("prefix", "middle", "suffix"), INFILLS)
async def test_they_are_filled_in_files_with_dos_line_ends(
    http: httpx.AsyncClient, prefix: str, middle: str, suffix: str
) -> None:
    body = {"prompt": prefix.replace("\n", "\r\n"), "suffix": suffix.replace("\n", "\r\n"), "temperature": 0}
    body |= {"max_tokens": 24, "completion_mode": "auto"}
    assert (await http.post("/v1/completions", json=body)).json()["choices"][0]["text"] == middle


async def test_the_references_examples_are_right(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    asked = 0
    for sample in samples_of(document):
        if sample.title not in OF_THE_REFERENCE or sample.operation.endswith(("/render", "_stream")):
            continue
        sent = sent_by_python(sample.sources["Python"].replace(SERVED_MODEL, "pico"))
        answer = await http.request(sent.method, sent.target, json=sent.body)
        text = answer.text.replace(r"\n", "")  # TGI leaves the stop string in the text
        assert f'{OF_THE_REFERENCE[sample.title]}"' in text, (sample.operation, sample.title, text)
        asked += 1
    assert asked > 12
