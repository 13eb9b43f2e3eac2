"""`starcoder usage`: what was used, by whom, and what it cost."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from deployments.api.openai.organization.usage import UsageAnswer, UsageResult
from deployments.command.tables import table
from deployments.command.teams.office import Office
from deployments.command.teams.running import acting
from deployments.command.teams.running import run as run_parser
from deployments.options import OptionParser
from deployments.teams.expiry import moment
from deployments.teams.money import picodollars, shown

_GROUPS = {
    "team": "project_id",
    "key": "api_key_id",
    "model": "model",
    "kind": "kind",
    "dialect": "dialect",
    "user": "user_id",
    "day": None,
}
_SUMS = ["requests", "prompt", "cached", "generated", "USD", "accepted lines", "USD a line"]


def run(arguments: Sequence[str]) -> int:
    return run_parser(parser(), arguments)


async def show(office: Office, options: argparse.Namespace) -> int:
    start, end = options.start, options.end
    if options.csv:
        team = [options.team] if options.team else None
        path = "/usage.csv"
        async for text in office.lines(path, start_time=start, end_time=end, by=options.by, project_ids=team):
            sys.stdout.write(text)
        return 0
    rows = await _rows(office, options)
    cells = [[*_groups(day, row, options.by), *_sums([row])] for day, row in rows]
    if len(rows) > 1:
        cells.append([*("total" if i == 0 else "" for i in range(len(options.by))), *_sums([row for _, row in rows])])
    first = len(options.by)
    print(table([*options.by, *_SUMS], cells, numbers=range(first, first + len(_SUMS))))
    return 0


async def _rows(office: Office, options: argparse.Namespace) -> list[tuple[int, UsageResult]]:
    """With when the day began."""
    rows: list[tuple[int, UsageResult]] = []
    page: str | None = None
    while True:
        answer = await office.get(
            "/usage/completions",
            UsageAnswer,
            start_time=options.start,
            end_time=options.end,
            bucket_width="1d" if "day" in options.by else "all",
            group_by=[group for group in map(_GROUPS.__getitem__, options.by) if group is not None] or None,
            project_ids=[options.team] if options.team else None,
            limit=31 if "day" in options.by else None,
            page=page,
        )
        rows += [(bucket.start_time, row) for bucket in answer.data for row in bucket.results]
        page = answer.next_page
        if page is None:
            return rows


def _groups(day: int, row: UsageResult, by: Sequence[str]) -> list[str]:
    found = {
        "day": datetime.fromtimestamp(day, UTC).strftime("%Y-%m-%d"),
        "team": row.project_name or row.project_id,
        "key": row.api_key_id and f"{row.api_key_name or ''} {row.api_key_id}".strip(),
        "model": row.model,
        "kind": row.kind,
        "dialect": row.dialect,
        "user": row.user_id,
    }
    return [found[group] or "-" for group in by]


def _sums(rows: Sequence[UsageResult]) -> list[str]:
    cost, lines = sum(picodollars(row.cost_usd) for row in rows), sum(row.accepted_lines for row in rows)
    counts = ("num_model_requests", "input_tokens", "input_cached_tokens", "output_tokens")
    return [
        *(f"{sum(getattr(row, name) for row in rows):,}" for name in counts),
        shown(cost, 4),
        f"{lines:,}",
        shown(round(cost / lines), 6) if lines else "-",
    ]


def _moment(text: str) -> int:
    try:
        return int(moment(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day such as 2027-01-31") from None


def _by(text: str) -> list[str]:
    groups = list(dict.fromkeys(text.split(",")))
    for group in groups:
        if group not in _GROUPS:
            raise argparse.ArgumentTypeError(f"{group!r} is none of {', '.join(_GROUPS)}")
    return groups


def _this_month() -> int:
    now = datetime.now(UTC)
    return int(now.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp())


def parser() -> OptionParser:
    whole = OptionParser("starcoder usage", "What was used, by whom, and what it cost.")
    acting(whole, show)
    whole.add_argument("--team", metavar="NAME", help="of this team only")
    whole.add_argument(
        "--from", dest="start", type=_moment, default=_this_month(), metavar="DAY", help="the first day (this month's)"
    )
    whole.add_argument("--to", dest="end", type=_moment, metavar="DAY", help="the day after the last one (now)")
    whole.add_argument("--by", type=_by, default=["team"], help=f"of {', '.join(_GROUPS)}, with commas between (team)")
    whole.add_argument("--csv", action="store_true", help="for spreadsheets")
    return whole
