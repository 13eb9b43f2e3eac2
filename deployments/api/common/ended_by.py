"""The field of answers that names the stop rule."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, WithJsonSchema

from deployments.stop_rules.registry import stop_rules

EndedBy = Annotated[
    Annotated[str, WithJsonSchema({"type": "string", "enum": list(stop_rules())})] | None,
    Field(description="The rule of this server that ended the text or cut its end; absent if none did."),
]
