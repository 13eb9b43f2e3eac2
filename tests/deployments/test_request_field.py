"""Bodies that have the fields which others declare."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, Field

from deployments.request_field import RequestField, with_fields

SEED = RequestField("seed", int | None, Field(default=None, description="Where draws begin."))


class Body(BaseModel):
    prompt: str


def test_a_body_has_what_was_declared() -> None:
    body = with_fields(Body, "Seeded", [SEED])(prompt="x", seed=3)
    assert SEED.of(body) == 3
    assert type(body).model_json_schema()["properties"]["seed"]["description"] == "Where draws begin."


@pytest.mark.parametrize(
    ("base", "fields"),
    [(Body, [SEED, SEED]), (with_fields(Body, "Seeded", [SEED]), [SEED])],
    ids=["twice", "inherited"],
)
def test_two_fields_of_one_name_are_refused(base: type[Body], fields: list[RequestField[int]]) -> None:
    """One would silently take the other's place."""
    with pytest.raises(ValueError, match="'seed'"):
        with_fields(base, "More", fields)
