"""Usage for spreadsheets: `GET /v1/organization/usage.csv`.

A cell that a spreadsheet would take for a formula gets an apostrophe in front (OWASP, "CSV Injection"): names of keys
and end users are other people's words.
"""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.api.openai.organization.fields import usd
from deployments.api.openai.organization.names import Names, names_in
from deployments.api.openai.organization.route import Visit, VisitOf
from deployments.api.openai.organization.usage import (
    End,
    KeyIds,
    Models,
    ProjectIds,
    Start,
    distinct,
    end_of,
    per_line,
    teams_asked,
)
from deployments.errors import InvalidRequestError
from deployments.http.needs import needs
from deployments.teams.records import Bucket, Grouping, UsageRow
from deployments.teams.usage_pages import Asked, usage_pages

if TYPE_CHECKING:
    from deployments.teams.store import Store

By = Literal["team", "key", "model", "kind", "dialect", "user", "day", "hour"]

_COLUMNS: Final = {
    "day": ("day",),
    "hour": ("hour",),
    "team": ("team", "team_id"),
    "key": ("key", "key_id"),
    "model": ("model",),
    "kind": ("kind",),
    "dialect": ("dialect",),
    "user": ("user",),
}

_SUMS: Final = (
    *("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "replayed_tokens", "cost_usd"),
    *("accepted", "accepted_lines", "cost_per_accepted_line_usd"),
)

_MOST_BUCKETS = 10_000
_BUCKETS_A_QUERY = 31
_LONGEST_S = 600.0
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def add_routes(router: APIRouter) -> None:
    @router.get(
        "/usage.csv",
        summary="What was used, for spreadsheets",
        response_class=Response,
        responses={200: {"description": "A line a sum.", "content": {"text/csv": {"schema": {"type": "string"}}}}},
    )
    @needs("key")
    async def usage_csv(
        visit: VisitOf,
        start_time: Start,
        end_time: End = None,
        by: Annotated[list[By], Query(max_length=8, description="A line for each of these.")] = ["team"],  # noqa: B006
        project_ids: ProjectIds = None,
        api_key_ids: KeyIds = None,
        models: Models = None,
    ) -> Response:
        """One's own teams', or all for administrators."""
        asked = Asked(
            start=float(start_time),
            end=end_of(visit, end_time),
            bucket=_bucket(by),
            by=tuple(group for group in dict.fromkeys(by) if group != "day" and group != "hour"),
            team_ids=await teams_asked(visit, project_ids),
            key_ids=distinct(api_key_ids),
            models=distinct(models),
        )
        if asked.buckets > _MOST_BUCKETS:
            raise InvalidRequestError(f"That are more than {_MOST_BUCKETS} days or hours.", param="start_time")
        return _Csv(visit, _lines(visit.administration.store, asked, list(dict.fromkeys(by))))


class _Csv(StreamingResponse):
    """A report until its end: what raises RateLimitedError does so before anything is sent."""

    def __init__(self, visit: Visit, lines: AsyncIterator[str]) -> None:
        headers = {"content-disposition": 'attachment; filename="usage.csv"'}
        super().__init__(lines, media_type="text/csv; charset=utf-8", headers=headers)
        self._visit = visit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._visit.report():
            async with asyncio.timeout(_LONGEST_S):
                await super().__call__(scope, receive, send)


def _bucket(by: list[By]) -> Bucket:
    return "hour" if "hour" in by else "day" if "day" in by else "all"


async def _lines(store: Store, asked: Asked, by: list[By]) -> AsyncIterator[str]:
    yield _line([column for group in by for column in _COLUMNS[group]] + list(_SUMS))
    async for page in usage_pages(store, asked, _BUCKETS_A_QUERY):
        names = await names_in(store, page.rows)
        for row in page.rows:
            cells = [cell for group in by for cell in _group(row, group, names)]
            yield _line([safe_cell(cell) for cell in cells] + _sums(row))


def _group(row: UsageRow, group: Grouping | By, names: Names) -> list[str]:
    match group:
        case "day":
            return [datetime.fromtimestamp(row.start, UTC).strftime("%Y-%m-%d")]
        case "hour":
            return [datetime.fromtimestamp(row.start, UTC).strftime("%Y-%m-%dT%H:00Z")]
        case "team":
            return [names.teams.get(row.team_id or "", ""), row.team_id or ""]
        case "key":
            return [names.keys.get(row.key_id or "", ""), row.key_id or ""]
        case _:
            return [getattr(row, group) or ""]


def _sums(row: UsageRow) -> list[str]:
    counts = (row.requests, row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.replayed_tokens)
    return [*map(str, counts), usd(row.cost), str(row.accepted), str(row.accepted_lines), per_line(row) or ""]


def safe_cell(text: str) -> str:
    """What no spreadsheet computes."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _line(cells: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue()
