"""The rule `superseded`: a newer request of an editor's session ends the older one (`deployments.replica.sessions`)."""

from __future__ import annotations

from pydantic import Field

from deployments.request_field import RequestField
from deployments.stop_rules.rule import StopRule

FIELD: RequestField[str | None] = RequestField(
    "session_id",
    str | None,
    Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Names an editor's session, as the header `x-session-id` does: a newer request of the same session "
        "for the same file ends the older one, and continues its text where the user has typed what it predicted.",
    ),
)

RULE = StopRule(
    name="superseded",
    order=80,
    description="with what there is when a newer request of its session comes; the field, or the header "
    "`x-session-id`, names the session",
    word="overtaken by a newer one",
    field=FIELD,
)
