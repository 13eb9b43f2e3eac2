"""What a process of the server does not use, it does not load: each library costs memory, and time at every start."""

from __future__ import annotations

import pytest

from tests.support.fresh_process import run_fresh

LOADED = "import importlib, json, sys; importlib.import_module(sys.argv[1]); print(json.dumps(list(sys.modules)))"


@pytest.mark.parametrize(
    ("module", "unused"),
    [
        ("deployments.ingress", {"sqlalchemy", "alembic", "authlib", "joserfc", "torch", "transformers", "ray"}),
        ("deployments.replica.replica", {"sqlalchemy", "torch", "transformers"}),
        ("deployments.command.cli", {"sqlalchemy", "torch", "transformers", "fastapi", "ray", "tokenizers"}),
        ("deployments.command.verify.command", {"sqlalchemy", "torch", "transformers", "ray"}),
    ],
)
def test_what_is_loaded(module: str, unused: set[str]) -> None:
    assert unused & set(run_fresh(LOADED, module)) == set()
