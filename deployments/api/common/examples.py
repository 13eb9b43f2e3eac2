"""Examples that bodies declare: the reference shows them, makes code to copy of them, and a test sends each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, JsonValue

HERE = "http://127.0.0.1:8000"
"""Where a server listens if nobody says otherwise. The page at `/docs` writes its own address instead."""

SERVED_MODEL = "SERVED-MODEL"
"""In place of the served model's id, where one has to be named: the page at `/docs` writes the id instead."""

TITLED = "x-examples"
"""In a body's schema until the reference is made: titles, each with a body in JSON. Keys of objects would be sorted."""


def examples(titled: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
    """A body's `model_config`, beside that of its bases.

    titled: what may be sent, by what it does, the first thing first; it is answered with 200 by any server.
    """
    listed: list[JsonValue] = [[title, json.dumps(body)] for title, body in titled.items()]
    return ConfigDict(json_schema_extra={TITLED: listed})


def example(title: str, **body: Any) -> ConfigDict:
    """One of them."""
    return examples({title: body})
