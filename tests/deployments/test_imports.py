"""What a process of the server does not use, it does not load: each library costs memory, and time at every start."""

from __future__ import annotations

import pytest

from tests.support.fresh_process import run_fresh

LOADED = "import importlib, json, sys; importlib.import_module(sys.argv[1]); print(json.dumps(list(sys.modules)))"


@pytest.mark.parametrize(
    ("module", "unused"),
    [
        ("deployments.ingress", {"sqlalchemy", "alembic", "authlib", "joserfc", "torch", "transformers", "ray"}),
        ("deployments.app", {"sqlalchemy", "torch", "transformers"}),
        ("deployments.replica.replica", {"sqlalchemy", "torch", "transformers"}),
        ("deployments.command.cli", {"sqlalchemy", "torch", "transformers", "fastapi", "ray", "tokenizers"}),
        (
            "deployments.cluster.haproxy",
            {"pydantic", "prometheus_client", "ssl", "asyncio", "ray"},
        ),
        ("deployments.command.verify.command", {"sqlalchemy", "torch", "transformers", "ray"}),
    ],
)
def test_what_is_loaded(module: str, unused: set[str]) -> None:
    assert unused & set(run_fresh(LOADED, module)) == set()


def test_who_looks_for_keys_where_there_are_none_needs_no_database() -> None:
    """As every server without keys does at its start, and every two seconds from then on."""
    script = """
import asyncio, json, sys
from deployments.team_settings import TeamsSettings
from deployments.teams.opening import journal_directory, open_store, pepper_file
settings = TeamsSettings()
found = [asyncio.run(open_store(settings)), str(pepper_file(settings)), str(journal_directory(settings))]
print(json.dumps([*found, "sqlalchemy" in sys.modules]))
"""
    store, pepper, journal, loaded = run_fresh(f"import os; os.environ['XDG_DATA_HOME'] = '/dev/null/none'; {script}")
    assert (store, pepper.rpartition("/")[2], journal.rpartition("/")[2]) == (None, "teams.sqlite.pepper", "journal")
    assert not loaded
