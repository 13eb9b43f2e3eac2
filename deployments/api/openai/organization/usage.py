"""What was used and what it cost: `/v1/organization/usage/completions`, `/v1/organization/costs`, and both as CSV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from deployments.api.openai.organization.fields import usd
from deployments.api.openai.organization.names import Names, names_in
from deployments.api.openai.organization.route import Visit, VisitOf
from deployments.errors import InvalidRequestError
from deployments.http.needs import needs
from deployments.teams.money import dollars
from deployments.teams.records import Bucket, Grouping, UsageRow
from deployments.teams.usage_pages import Asked, UsageBucket, UsagePage, usage_page

_FIRST, _LAST = 0, 253_402_300_800
"""From 1970 to the year 10,000."""

_HOUR = 3600

GroupBy = Literal["project_id", "api_key_id", "model", "user_id", "kind", "dialect"]

_GROUPINGS: dict[str, Grouping] = {
    "project_id": "team",
    "api_key_id": "key",
    "model": "model",
    "user_id": "user",
    "kind": "kind",
    "dialect": "dialect",
}

_MOST_BUCKETS = {"1h": 168, "1d": 31, "all": 1}
_MOST_DAYS = 180

Start = Annotated[
    int, Query(ge=_FIRST, le=_LAST, description="What began then or later, in Unix seconds.", examples=[1_767_225_600])
]
End = Annotated[int | None, Query(ge=_FIRST, le=_LAST, description="What began before; else before this hour ends.")]
Page = Annotated[str | None, Query(max_length=40, description="`next_page` of the page before.")]
ProjectIds = Annotated[list[str] | None, Query(max_length=500, description="Of these teams only.")]
KeyIds = Annotated[list[str] | None, Query(max_length=500, description="By these keys only.")]
Models = Annotated[list[str] | None, Query(max_length=100, description="Of these models only.")]


class Groups(BaseModel):
    """Null where it was not grouped by that, or nobody is known."""

    project_id: str | None = Field(description="Id of the team.")
    project_name: str | None = Field(description="Its name.")
    api_key_id: str | None = Field(description="Id of the key.")
    api_key_name: str | None = Field(description="Its name.")


class UsageResult(Groups):
    object: Literal["organization.usage.completions.result"] = Field(
        default="organization.usage.completions.result", description="What this is."
    )
    model: str | None = Field(description="The model.")
    user_id: str | None = Field(description="The end user, as requests name them in `user`.")
    kind: str | None = Field(description="What became of it: completed, superseded, cancelled or failed.")
    dialect: str | None = Field(description="In which dialect it was asked.")
    num_model_requests: int = Field(description="Calls of the model.")
    input_tokens: int = Field(description="Tokens of prompts.")
    input_cached_tokens: int = Field(description="Those of them that were found in the cache.")
    input_uncached_tokens: int = Field(description="The others of them.")
    output_tokens: int = Field(description="Tokens generated.")
    replayed_tokens: int = Field(description="Those of them that an earlier request of the editor had generated.")
    cost_usd: str = Field(description="What it cost in USD, exactly.")
    accepted: int = Field(description="Completions that somebody took into their text, as editors told.")
    accepted_lines: int = Field(description="Lines of those.")
    cost_per_accepted_line_usd: str | None = Field(description="Null where none was accepted.")


class Amount(BaseModel):
    value: float = Field(description="USD, as a number.")
    currency: Literal["usd"] = Field(default="usd", description="Of the amount.")


class CostResult(Groups):
    object: Literal["organization.costs.result"] = Field(
        default="organization.costs.result", description="What this is."
    )
    amount: Amount = Field(description="What it cost.")
    amount_usd: str = Field(description="The same, exactly.")
    line_item: str | None = Field(description="The model and what became of the work, such as `m, completed`.")


class UsageBucketAnswer(BaseModel):
    object: Literal["bucket"] = Field(default="bucket", description="What this is.")
    start_time: int = Field(description="Unix seconds.")
    end_time: int = Field(description="Unix seconds; what begins then is in the next one.")
    results: list[UsageResult] = Field(description="One a group; none where nothing was used.")


class CostBucketAnswer(BaseModel):
    object: Literal["bucket"] = Field(default="bucket", description="What this is.")
    start_time: int = Field(description="Unix seconds.")
    end_time: int = Field(description="Unix seconds; what begins then is in the next one.")
    results: list[CostResult] = Field(description="One a group; none where nothing was used.")


class UsageAnswer(BaseModel):
    object: Literal["page"] = Field(default="page", description="What this is.")
    data: list[UsageBucketAnswer] = Field(description="From oldest to newest.")
    has_more: bool = Field(description="Whether there is a next page.")
    next_page: str | None = Field(description="Its name, for `page`.")


class CostAnswer(BaseModel):
    object: Literal["page"] = Field(default="page", description="What this is.")
    data: list[CostBucketAnswer] = Field(description="From oldest to newest.")
    has_more: bool = Field(description="Whether there is a next page.")
    next_page: str | None = Field(description="Its name, for `page`.")


def add_routes(router: APIRouter) -> None:
    @router.get("/usage/completions", summary="What was used", response_description="Sums by time and group.")
    @needs("key")
    async def completions(
        visit: VisitOf,
        start_time: Start,
        end_time: End = None,
        bucket_width: Annotated[
            Literal["1h", "1d", "all"], Query(description="Of a bucket, in UTC; `all`: one for all the time.")
        ] = "1d",
        group_by: Annotated[list[GroupBy] | None, Query(max_length=6, description="A sum for each of these.")] = None,
        project_ids: ProjectIds = None,
        api_key_ids: KeyIds = None,
        models: Models = None,
        limit: Annotated[int | None, Query(ge=1, le=168, description="Most buckets of a page.")] = None,
        page: Page = None,
    ) -> UsageAnswer:
        """One's own teams', or all for administrators. Accepted completions are counted for whole hours."""
        groups = tuple(_GROUPINGS[group] for group in dict.fromkeys(group_by or ()))
        bucket: Bucket = "hour" if bucket_width == "1h" else "day" if bucket_width == "1d" else "all"
        default = {"1h": 24, "1d": 7, "all": 1}[bucket_width]
        with visit.report():
            asked = await _asked(visit, start_time, end_time, page, bucket, groups, project_ids, api_key_ids, models)
            found, names = await _page(visit, asked, min(limit or default, _MOST_BUCKETS[bucket_width]))
        data = [
            UsageBucketAnswer(**_times(bucket), results=[_usage(row, names) for row in bucket.rows])
            for bucket in found.buckets
        ]
        return UsageAnswer(data=data, has_more=found.next_start is not None, next_page=_next(found))

    @router.get("/costs", summary="What was spent", response_description="Costs by day and group.")
    @needs("key")
    async def costs(
        visit: VisitOf,
        start_time: Start,
        end_time: End = None,
        bucket_width: Annotated[Literal["1d"], Query(description="Of a bucket, in UTC.")] = "1d",
        group_by: Annotated[
            list[Literal["project_id", "api_key_id", "line_item"]] | None,
            Query(max_length=3, description="A sum for each of these."),
        ] = None,
        project_ids: ProjectIds = None,
        api_key_ids: KeyIds = None,
        limit: Annotated[int, Query(ge=1, le=_MOST_DAYS, description="Most buckets of a page.")] = 7,
        page: Page = None,
    ) -> CostAnswer:
        """One's own teams', or all for administrators."""
        groups: list[Grouping] = []
        for group in dict.fromkeys(group_by or ()):
            groups += ["model", "kind"] if group == "line_item" else [_GROUPINGS[group]]
        with visit.report():
            asked = await _asked(
                visit, start_time, end_time, page, "day", tuple(groups), project_ids, api_key_ids, None
            )
            found, names = await _page(visit, asked, limit)
        data = [
            CostBucketAnswer(**_times(bucket), results=[_cost(row, names) for row in bucket.rows])
            for bucket in found.buckets
        ]
        return CostAnswer(data=data, has_more=found.next_start is not None, next_page=_next(found))


async def _asked(
    visit: Visit,
    start_time: int,
    end_time: int | None,
    page: str | None,
    bucket: Bucket,
    groups: tuple[Grouping, ...],
    project_ids: Sequence[str] | None,
    key_ids: Sequence[str] | None,
    models: Sequence[str] | None,
) -> Asked:
    """Raises InvalidRequestError, NotFoundError and ForbiddenError."""
    end = end_of(visit, end_time)
    if page is not None:
        start_time = _start_of(page, start_time, end)
    return Asked(
        start=float(start_time),
        end=end,
        bucket=bucket,
        by=groups,
        team_ids=await teams_asked(visit, project_ids),
        key_ids=distinct(key_ids),
        models=distinct(models),
    )


async def _page(visit: Visit, asked: Asked, most_buckets: int) -> tuple[UsagePage, Names]:
    store = visit.administration.store
    found = await usage_page(store, asked, most_buckets)
    return found, await names_in(store, found.rows)


def end_of(visit: Visit, end_time: int | None) -> float:
    """As asked, else the end of the present hour, so that what is counted for whole hours only is there."""
    return float(end_time) if end_time is not None else math.ceil(visit.administration.clock() / _HOUR) * float(_HOUR)


def distinct(asked: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if asked is None else tuple(dict.fromkeys(asked))


async def teams_asked(visit: Visit, project_ids: Sequence[str] | None) -> tuple[str, ...] | None:
    """By ids or names; None: all there are. Raises NotFoundError for another's, ForbiddenError."""
    if project_ids is not None:
        return tuple([(await visit.team(one, "usage.read")).id for one in dict.fromkeys(project_ids)])
    own = visit.teams("usage.read")
    if own is not None and not own and visit.principal.team is not None:
        await visit.team(visit.principal.team.id, "usage.read")  # which says what the key lacks
    return None if own is None else tuple(own)


def _start_of(page: str, start: int, end: float) -> int:
    if not (page.isascii() and page.isdecimal() and start <= int(page) <= end):
        raise InvalidRequestError("`page` is none that this server has named.", param="page", code="invalid_value")
    return int(page)


def _next(page: UsagePage) -> str | None:
    return None if page.next_start is None else str(int(page.next_start))


def _times(bucket: UsageBucket) -> dict[str, int]:
    return {"start_time": int(bucket.start), "end_time": int(bucket.end)}


def _groups(row: UsageRow, names: Names) -> dict[str, str | None]:
    return {
        "project_id": row.team_id,
        "project_name": names.teams.get(row.team_id or ""),
        "api_key_id": row.key_id,
        "api_key_name": names.keys.get(row.key_id or ""),
    }


def _usage(row: UsageRow, names: Names) -> UsageResult:
    return UsageResult(
        **_groups(row, names),
        model=row.model,
        user_id=row.user,
        kind=row.kind,
        dialect=row.dialect,
        num_model_requests=row.requests,
        input_tokens=row.prompt_tokens,
        input_cached_tokens=row.cached_tokens,
        input_uncached_tokens=row.prompt_tokens - row.cached_tokens,
        output_tokens=row.completion_tokens,
        replayed_tokens=row.replayed_tokens,
        cost_usd=usd(row.cost),
        accepted=row.accepted,
        accepted_lines=row.accepted_lines,
        cost_per_accepted_line_usd=per_line(row),
    )


def per_line(row: UsageRow) -> str | None:
    """To a picodollar."""
    return usd(round(row.cost / row.accepted_lines)) if row.accepted_lines else None


def _cost(row: UsageRow, names: Names) -> CostResult:
    line_item = None if row.model is None else f"{row.model}, {row.kind}"
    return CostResult(
        **_groups(row, names),
        amount=Amount(value=float(dollars(row.cost))),
        amount_usd=usd(row.cost),
        line_item=line_item,
    )
