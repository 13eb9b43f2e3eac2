"""What the model has learned by heart, and where it has it from."""

from __future__ import annotations

import inspect
import json
import pstats
from typing import Any

import httpx
import pytest

from tests.deployments.attribution.test_search import bare
from tests.deployments.test_nano_examples import typed
from tests.support.packages import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="session")


def asked() -> dict[str, Any]:
    """The request that the document shows."""
    (body,) = typed((ROOT / "docs" / "attribution.md").read_text())
    return body


async def test_the_example_of_the_document_names_its_source(nano: httpx.AsyncClient) -> None:
    (choice,) = (await nano.post("/v1/completions", json=asked())).json()["choices"]
    (part,) = choice["attribution"]
    source, other = part["sources"]
    assert (source["file"], source["licence"]) == ("python/pstats.py", "Apache-2.0")
    assert other["file"] == "python/profile.py"
    original = inspect.getsource(pstats).splitlines(keepends=True)[source["line"] - 1 :]
    assert bare("".join(original)).startswith(bare(choice["text"][part["start"] : part["end"]]))
    shown = f'"attribution": {json.dumps(choice["attribution"])}'.replace("python/", "python3.11/")
    assert shown in (ROOT / "docs" / "attribution.md").read_text()
