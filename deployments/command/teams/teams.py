"""`starcoder teams`: who shares the server, with which weight, limits and budget."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import get_args

from deployments.api.openai.organization.fields import BudgetAnswer
from deployments.api.openai.organization.projects import Project
from deployments.command.tables import table
from deployments.command.teams.office import Body, Office, OfficeError, path_to
from deployments.command.teams.running import day, limit, part, say
from deployments.command.teams.running import run as run_parser
from deployments.options import OptionParser
from deployments.teams.money import picodollars, shown
from deployments.teams.records import Period, ServiceClass
from model.request import LEAST_WEIGHT, MOST_WEIGHT

_LIMITS = {"rpm": "requests_per_minute", "tpm": "tokens_per_minute", "parallel": "parallel"}


def run(arguments: Sequence[str]) -> int:
    return run_parser(parser(), arguments)


async def create(office: Office, options: argparse.Namespace) -> int:
    team = await office.post("/projects", {"name": options.name, **_changes(options, None)}, Project)
    say(f"Team {team.name} is made ({team.id}). `starcoder keys create --team {team.name}` makes a key for it.")
    return 0


async def set_team(office: Office, options: argparse.Namespace) -> int:
    path = path_to("/projects", options.name)
    before = await office.get(path, Project)
    changes = _changes(options, before.budget)
    if options.rename is not None:
        changes["name"] = options.rename
    if not changes:
        raise OfficeError("nothing to set: see starcoder teams set --help")
    _print(await office.post(path, changes, Project))
    return 0


async def list_teams(office: Office, options: argparse.Namespace) -> int:
    found = [team async for team in office.listed("/projects", Project, include_archived=options.archived)]
    if options.json:
        print(f"[{','.join(team.model_dump_json() for team in found)}]")
        return 0
    rows = [
        [
            team.name + (" (archived)" if team.archived_at is not None else ""),
            team.service_class,
            f"{team.weight:g}",
            *(_or_dash(getattr(team, name)) for name in _LIMITS.values()),
            _budget(team.budget),
            _spent(team.budget),
        ]
        for team in sorted(found, key=lambda team: team.name)
    ]
    headings = ["team", "class", "weight", "rpm", "tpm", "parallel", "budget", "spent"]
    print(table(headings, rows, numbers=range(2, 6)))
    return 0


async def show(office: Office, options: argparse.Namespace) -> int:
    team = await office.get(path_to("/projects", options.name), Project)
    if options.json:
        print(team.model_dump_json())
    else:
        _print(team)
    return 0


async def archive(office: Office, options: argparse.Namespace) -> int:
    team = await office.post(path_to("/projects", options.name, "archive"), {}, Project)
    say(f"Team {team.name} is archived, and its keys are revoked. What it used stays on the ledger.")
    return 0


async def accept_terms(office: Office, options: argparse.Namespace) -> int:
    team = await office.post(path_to("/projects", options.name, "terms"), {"version": options.version}, Project)
    say(f"Version {team.terms_version} of the use restrictions is accepted for {team.name}.")
    return 0


def _changes(options: argparse.Namespace, before: BudgetAnswer | None) -> Body:
    """What the options say, as the API has it."""
    changes: Body = {name: getattr(options, option) for option, name in _LIMITS.items() if hasattr(options, option)}
    if options.weight is not None:
        changes["weight"] = options.weight
    if options.service_class is not None:
        changes["service_class"] = options.service_class
    if options.budget_usd == "none":
        changes["budget"] = None
    elif options.budget_usd is not None or options.period is not None or options.hard is not None:
        amount = options.budget_usd or (before.amount_usd if before is not None else None)
        if amount is None:
            raise OfficeError("--period and --hard are of a budget: say --budget-usd")
        period = options.period or (before.period if before is not None else "month")
        hard = options.hard if options.hard is not None else before is not None and before.hard
        changes["budget"] = {"amount_usd": amount, "period": period, "hard": hard}
    return changes


def _print(team: Project) -> None:
    rows = [
        ["name", team.name],
        ["id", team.id],
        ["made", day(team.created_at)],
        ["class", team.service_class],
        ["weight", f"{team.weight:g}"],
        ["requests a minute", _or_dash(team.requests_per_minute)],
        ["tokens a minute", _or_dash(team.tokens_per_minute)],
        ["requests at once", _or_dash(team.parallel)],
        ["budget", _budget(team.budget)],
        ["spent", _spent(team.budget)],
        ["use restrictions", _terms(team)],
    ]
    if team.archived_at is not None:
        rows.append(["archived", day(team.archived_at)])
    print(table(["team", ""], rows))


def _terms(team: Project) -> str:
    if team.terms_version is None:
        return "not accepted"
    return f"{team.terms_version}, accepted {day(team.terms_accepted_at)} by {team.terms_accepted_by}"


def _budget(budget: BudgetAnswer | None) -> str:
    if budget is None:
        return "-"
    return f"${shown(picodollars(budget.amount_usd))} a {budget.period}{', hard' if budget.hard else ''}"


def _spent(budget: BudgetAnswer | None) -> str:
    if budget is None or budget.spent_usd is None:
        return "-"
    return f"${shown(picodollars(budget.spent_usd))}"


def _or_dash(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _add_changes(parser: argparse.ArgumentParser) -> None:
    missing = argparse.SUPPRESS
    parser.add_argument(
        "--weight",
        metavar="X",
        type=float,
        help=f"share of a full server, against others of its class: {LEAST_WEIGHT:g} to {MOST_WEIGHT:g} (1)",
    )
    parser.add_argument(
        "--class", dest="service_class", choices=get_args(ServiceClass), help="in this order they are served (standard)"
    )
    parser.add_argument(
        "--rpm", metavar="N", type=limit, default=missing, help="most requests a minute; none: no limit"
    )
    parser.add_argument("--tpm", metavar="N", type=limit, default=missing, help="most tokens a minute; none: no limit")
    parser.add_argument(
        "--parallel", metavar="N", type=limit, default=missing, help="most requests at once; none: no limit"
    )
    parser.add_argument("--budget-usd", metavar="USD", help="for each period; none: no limit")
    parser.add_argument("--period", choices=get_args(Period), help="of the budget, in UTC (month)")
    parser.add_argument(
        "--hard", action=argparse.BooleanOptionalAction, help="nothing is computed beyond the budget; else it is told"
    )


def parser() -> OptionParser:
    whole = OptionParser("starcoder teams", "Teams that share the server.")
    parts = whole.parts()
    making = part(parts, "create", create, "make a team", makes=True)
    making.add_argument("name", help="1 to 64 of a-z, 0-9, '-', '_' and '.'")
    _add_changes(making)
    listing = part(parts, "list", list_teams, "list the teams")
    listing.add_argument("--archived", action="store_true", help="those too")
    listing.add_argument("--json", action="store_true", help="for programs")
    showing = part(parts, "show", show, "describe a team")
    showing.add_argument("name", help="its name or id")
    showing.add_argument("--json", action="store_true", help="for programs")
    setting = part(parts, "set", set_team, "change a team")
    setting.add_argument("name", help="its name or id")
    setting.add_argument("--rename", metavar="NAME", help="its new name")
    _add_changes(setting)
    ending = part(parts, "archive", archive, "end a team: its keys are revoked, its usage stays")
    ending.add_argument("name", help="its name or id")
    accepting = part(parts, "accept-terms", accept_terms, "accept the use restrictions of the model for a team")
    accepting.add_argument("name", help="its name or id")
    accepting.add_argument("version", help="of the use restrictions, as /terms says it")
    return whole
