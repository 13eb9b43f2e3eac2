"""`starcoder members`: people who sign in, and what they may do in a team."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import get_args

from deployments.api.openai.organization.people import ProjectUser
from deployments.command.tables import table
from deployments.command.teams.office import Office, path_to
from deployments.command.teams.running import part, say
from deployments.command.teams.running import run as run_parser
from deployments.options import OptionParser
from deployments.teams.records import Role


def run(arguments: Sequence[str]) -> int:
    return run_parser(parser(), arguments)


async def add(office: Office, options: argparse.Namespace) -> int:
    body = {"user_id": options.user, "role": options.role}
    person = await office.post(path_to("/projects", options.team, "users"), body, ProjectUser)
    say(f"{person.id} is {person.role} in {options.team}.")
    return 0


async def list_members(office: Office, options: argparse.Namespace) -> int:
    path = path_to("/projects", options.team, "users")
    rows = [
        [person.id, person.role, person.name or "-", person.email or "-"]
        async for person in office.listed(path, ProjectUser)
    ]
    print(table(["person", "role", "name", "email"], rows))
    return 0


async def remove(office: Office, options: argparse.Namespace) -> int:
    await office.delete(path_to("/projects", options.team, "users", options.user))
    say(f"{options.user} is not in {options.team} any more, and the keys that they made for it are revoked.")
    return 0


def parser() -> OptionParser:
    whole = OptionParser("starcoder members", "People in teams.")
    parts = whole.parts()
    adding = part(parts, "add", add, "put somebody into a team, or give them another role")
    adding.add_argument("--role", choices=get_args(Role), default="member", help="default: %(default)s")
    listing = part(parts, "list", list_members, "list the people of a team")
    removing = part(parts, "remove", remove, "take somebody out of a team")
    for parser_of_part in (adding, listing, removing):
        parser_of_part.add_argument("--team", required=True, metavar="NAME", help="which team")
    for parser_of_part in (adding, removing):
        parser_of_part.add_argument("user", help="who, as the identity provider has it (sub)")
    return whole
