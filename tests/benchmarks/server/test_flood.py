"""The flood and who waits beside it, on a server that answers at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.__main__ import build_parser
from benchmarks.server import flood
from benchmarks.servers import Server
from deployments.ingress import create_app
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import FakeBackend
from tests.support.gatekeepers import Keyring
from tests.support.http_server import serving
from tests.support.tokenizers import starcoder_rules


@pytest.fixture(scope="module")
def keyring() -> Keyring:
    return Keyring()


@pytest.fixture(scope="module")
def server(keyring: Keyring) -> Iterator[Server]:
    tokenizer = Tokenizer(starcoder_rules())
    with serving(create_app(backend=FakeBackend(tokenizer), tokenizer=tokenizer, gatekeeper=keyring)) as url:
        yield Server("fake", int(url.rpartition(":")[2]), 0, Path("none"))


@pytest.mark.parametrize("flooding", [False, True])
def test_both_are_counted(server: Server, keyring: Keyring, flooding: bool) -> None:
    quiet, loud = keyring.add("quiet"), keyring.add("loud")
    options = build_parser("flood").parse_args(
        ["flood", "--streams", "3", "--seconds", "0.5", "--rate", "20", "--prompt-tokens", "8", "--max-tokens", "4"]
    )
    waited, flooded = flood._load(server, options, quiet, loud if flooding else None)
    assert len(waited.first_tokens) >= 2
    assert waited.refused == 0
    assert (flooded.answered > 0) == flooding
    table = flood._result(options, {"nobody floods": (waited, flooded)}).tables["two keys"]
    assert [len(row) for row in table] == [8, 8]


def test_a_flood_that_does_not_get_in_is_said(server: Server, keyring: Keyring) -> None:
    options = build_parser("flood").parse_args(["flood", "--streams", "2", "--seconds", "0.1"])
    with pytest.raises(RuntimeError, match="before the server was full"):
        flood._load(server, options, keyring.add("quiet"), "sk-nobody")
