"""Adding a client is adding one file."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from deployments.api.pages import playground
from deployments.api.pages.playground import configurations
from deployments.clients import registry
from deployments.clients.client import Client, Server
from deployments.clients.reference import BEGIN, END, reference
from deployments.clients.registry import clients
from deployments.ingress import create_app
from model.text.tokenizer import Tokenizer
from tests.support.contributing import example
from tests.support.fake_backend import FakeBackend
from tests.support.product_files import ROOT, lists_of

PAGE = f"Before.\n\n{BEGIN}\nOld.\n{END}\nAfter.\n"
CLIENT = example("A client")
HOSTILE = Server("https://code.example.com", 'acme/"star\\coder"', window=8192, key="YOUR_KEY")


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(registry, "KNOWN", tmp_path)
    playground.of_all_servers.cache_clear()
    yield tmp_path
    playground.of_all_servers.cache_clear()


async def test_a_file_is_a_client(known: Path, fake_backend: FakeBackend, tokenizer: Tokenizer) -> None:
    (known / "quill.toml").write_text(CLIENT)
    page = reference(PAGE)
    assert page.startswith("Before.")
    assert page.endswith("After.\n")
    assert "Old." not in page
    assert '### Quill\n\nIn `quill.conf`; dialects: OpenAI.\n\n```ini\nserver = "http://127.0.0.1:8000/v1"\n' in page
    assert reference(page) == page
    app = create_app(backend=fake_backend, tokenizer=tokenizer)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        script = (await http.get("/playground/clients.js")).text
    assert '"quill":{"name":"Quill","file":"quill.conf"' in script


def test_what_is_wrong_in_a_file_is_said_with_its_name(known: Path) -> None:
    (known / "quill.toml").write_text(CLIENT.replace("section =", "chapter ="))
    with pytest.raises(msgspec.ValidationError, match=r"quill\.toml: .*chapter"):
        clients()


@pytest.mark.parametrize("page", ["Nothing.", f"Before.\n{BEGIN}\nOld.\n", f"Before.\n{END}\n"])
def test_a_page_without_a_place_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="lost the comments"):
        reference(page)


SECTIONS = f"""\
Before.

{BEGIN}

## Python

### later

Dialects: OpenAI.

```toml
later
```

### a

Dialects: OpenAI.

```toml
a
```

### b

Dialects: OpenAI.

```toml
b
```

## Evaluation

### first

In `a.conf`; dialects: OpenAI, TGI.
Slow.

```toml
first
```

{END}
After.
"""


def test_clients_stand_in_their_sections_in_the_order_that_they_ask_for(known: Path) -> None:
    ours = 'speaks = { "It" = ["OpenAI"] }'
    theirs = 'speaks = { "It" = ["OpenAI", "TGI"], "Its chat" = ["OpenAI"] }\nfile = "`a.conf`"\nnote = "Slow."'
    for name, section, order, more in (
        ("b", "Python", 50, ours),
        ("first", "Evaluation", 10, theirs),
        ("a", "Python", 50, ours),
        ("later", "Python", 49, ours),
    ):
        (known / f"{name}.toml").write_text(
            f'name = "{name}"\nsection = "{section}"\norder = {order}\nlanguage = "toml"\n{more}\n'
            f'configuration = """\n{name}\n"""\n'
        )
    assert list(clients()) == ["later", "a", "b", "first"]
    assert reference(PAGE) == SECTIONS
    again = f"{BEGIN} stands between two comments of which the other is {END}.\n"
    assert reference(PAGE + again) == SECTIONS + again


def test_every_place_has_what_it_is_called_after(known: Path) -> None:
    places = ("origin", "model", "key", "window", "answer", "prompt")
    client = msgspec.structs.replace(
        Client(name="It", section="Python", speaks={}, language="toml", configuration=""),
        configuration=" ".join(f"{{{{{place}}}}}" for place in places),
    )
    server = Server("https://a.test", 'a"b', window=1002, key="k")
    assert client.configured(server) == r"https://a.test a\"b k 1002 250 752"
    with pytest.raises(KeyError):
        msgspec.structs.replace(client, configuration="{{other}}").configured(server)


@pytest.mark.parametrize("name", clients())
def test_every_place_is_filled(name: str) -> None:
    client = clients()[name]
    configured = client.configured(HOSTILE)
    assert "{{" not in configured
    assert HOSTILE.origin in configured
    assert configured.endswith("\n")
    assert (r"acme/\"star\\coder\"" in configured) == ("{{model}}" in client.configuration)
    assert (HOSTILE.key in configured) or "key" in client.note, "nothing says where a key goes"


def test_the_window_is_shared_out() -> None:
    both = re.compile(r"contextLength: (\d+), maxTokens: (\d+)")
    found = both.search(clients()["continue"].configured(HOSTILE))
    assert found is not None
    assert sum(map(int, found.groups())) == HOSTILE.window


def test_nobody_else_keeps_a_list() -> None:
    assert lists_of([client.name for client in clients().values() if client.file], 2) == []


def test_an_installed_package_holds_every_file() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    shipped = {path for pattern in patterns["deployments.clients"] for path in registry.KNOWN.parent.glob(pattern)}
    assert shipped == set(registry.KNOWN.iterdir())


def test_only_what_goes_into_a_file_is_offered_on_the_page() -> None:
    offered = json.loads(re.findall(rb"CLIENTS = (.*);", configurations())[0])
    assert offered.keys() == {name for name, client in clients().items() if client.file}
