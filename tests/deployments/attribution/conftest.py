"""A small index of made-up code."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.attribution.backend import Attributor
from deployments.attribution.build import build
from deployments.attribution.index import Index

WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "sigma")


def code(seed: int, lines: int = 60) -> str:
    """Lines that no other seed has."""
    drawn = random.Random(seed)

    def word() -> str:
        return f"{drawn.choice(WORDS)}{drawn.randrange(1000)}"

    return "".join(f"    {word()} = {word()}({word()}, {drawn.randrange(10**6)})\n" for _ in range(lines))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("corpus") / "library"
    (top / "inner").mkdir(parents=True)
    (top / "LICENSE").write_text("Permission is hereby granted, free of charge, to any person obtaining a copy")
    for number in range(8):
        (top / f"part{number}.py").write_text(code(number))
    (top / "inner" / "tagged.c").write_text(f"// SPDX-License-Identifier: GPL-2.0-only\n{code(100)}")
    (top / "inner" / "twin.py").write_text(f"# a twin\n{code(0)}")
    (top / "blob.bin").write_bytes(b"\0" + code(101).encode())
    return top


@pytest.fixture(scope="session")
def directory(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an index."""
    out = tmp_path_factory.mktemp("made") / "index"
    build([corpus], out)
    return out


@pytest.fixture(scope="session")
def index(directory: Path) -> Iterator[Index]:
    index = Index.open(directory)
    yield index
    index.close()


@pytest.fixture(scope="session")
def attributor(directory: Path) -> Iterator[Attributor]:
    attributor = Attributor.open(directory)
    yield attributor
    attributor.close()


@pytest.fixture(scope="session")
def blocking(directory: Path) -> Iterator[Attributor]:
    attributor = Attributor.open(directory, block=True)
    yield attributor
    attributor.close()
