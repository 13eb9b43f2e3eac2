"""`starcoder keys`: a new key goes to standard output, alone; words about it go to standard error."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from deployments.api.openai.organization.admin_api_keys import AdminApiKey, NewAdminApiKey
from deployments.api.openai.organization.all_keys import MOST_KEYS, AnyKey, RotatedKey
from deployments.api.openai.organization.api_keys import NewApiKey
from deployments.command.tables import table
from deployments.command.teams.office import Body, Office, OfficeError, path_to
from deployments.command.teams.running import day, part, say
from deployments.command.teams.running import run as run_parser
from deployments.options import OptionParser, positive


def run(arguments: Sequence[str]) -> int:
    return run_parser(parser(), arguments)


async def create(office: Office, options: argparse.Namespace) -> int:
    body: Body = {"name": options.name}
    if options.expires is not None:
        body["expires"] = options.expires
    limits = {
        "requests_per_minute": options.rpm,
        "tokens_per_minute": options.tpm,
        "parallel": options.parallel,
        "scopes": options.scopes,
    }
    body |= {name: value for name, value in limits.items() if value is not None}
    if options.admin:
        return await _create_admin(office, options, body)
    if options.if_none:
        raise OfficeError("--if-none is of administrators' keys")
    key = await office.post(path_to("/projects", options.team, "api_keys"), body, NewApiKey)
    say(f"Key {key.id} of team {options.team}, {_until(key.expires_at)}. It is shown once, and not stored:")
    print(key.value)
    return 0


async def _create_admin(office: Office, options: argparse.Namespace, body: Body) -> int:
    if len(body) > 1 + ("expires" in body):
        raise OfficeError("scopes and limits are of keys of a team")
    if options.if_none and (there := await _good_admin_key(office)) is not None:
        say(f"There is an administrator's key already ({there.id}, {there.name}): none was made.")
        return 0
    key = await office.post("/admin_api_keys", body, NewAdminApiKey)
    say(f"Administrator's key {key.id}, {_until(key.expires_at)}. It is shown once, and not stored:")
    print(key.value)
    return 0


async def _good_admin_key(office: Office) -> AdminApiKey | None:
    """One that was not revoked and has not expired."""
    now = time.time()
    async for key in office.listed("/admin_api_keys", AdminApiKey):
        if key.expires_at is None or key.expires_at > now:
            return key
    return None


async def list_keys(office: Office, options: argparse.Namespace) -> int:
    found = [
        key
        async for key in office.listed("/api_keys", AnyKey, MOST_KEYS)
        if options.team is None or options.team in (key.project_id, key.project_name)
    ]
    if options.json:
        print(f"[{','.join(key.model_dump_json() for key in found)}]")
        return 0
    rows = [
        [
            key.id,
            key.name,
            key.project_name or "(administrators)",
            f"...{key.last_four}",
            ",".join(key.scopes),
            day(key.expires_at),
        ]
        for key in found
    ]
    print(table(["id", "name", "team", "ends in", "scopes", "expires"], rows))
    return 0


async def rotate(office: Office, options: argparse.Namespace) -> int:
    body = {"grace_seconds": options.grace}
    key = await office.post(path_to("/api_keys", options.id, "rotate"), body, RotatedKey)
    ends = f"in {options.grace} s" if options.grace else "now"
    say(f"Key {key.id} takes the place of {key.replaces}, which ends {ends}. It is shown once, and not stored:")
    print(key.value)
    return 0


async def revoke(office: Office, options: argparse.Namespace) -> int:
    await office.delete(path_to("/api_keys", options.id))
    say(f"Key {options.id} is revoked; servers refuse it within 2 seconds.")
    return 0


def _until(expires_at: int | None) -> str:
    return "without an end" if expires_at is None else f"until {day(expires_at)}"


def _scopes(text: str) -> list[str]:
    return [scope.strip() for scope in text.split(",")]


def parser() -> OptionParser:
    whole = OptionParser("starcoder keys", "API keys of teams and administrators.")
    parts = whole.parts()
    making = part(parts, "create", create, "make a key and print it", makes=True)
    whose = making.add_mutually_exclusive_group(required=True)
    whose.add_argument("--team", metavar="NAME", help="whose key it is")
    whose.add_argument("--admin", action="store_true", help="a key of an administrator")
    making.add_argument("--name", default="key", help="for people (default: %(default)s)")
    making.add_argument("--if-none", action="store_true", help="with --admin: only where there is none")
    making.add_argument("--expires", metavar="WHEN", help="90d, 12h, or an ISO 8601 day or time (never)")
    making.add_argument("--scopes", type=_scopes, help="of generate, usage, metrics (generate,usage)")
    making.add_argument("--rpm", metavar="N", type=positive, help="most requests a minute by this key")
    making.add_argument("--tpm", metavar="N", type=positive, help="most tokens a minute by this key")
    making.add_argument("--parallel", metavar="N", type=positive, help="most requests at once by this key")
    listing = part(parts, "list", list_keys, "list the keys")
    listing.add_argument("--team", metavar="NAME", help="of this team only")
    listing.add_argument("--json", action="store_true", help="for programs")
    rotating = part(parts, "rotate", rotate, "replace a key by a new one, and print that")
    rotating.add_argument("id", help="of the key, as keys list shows it")
    rotating.add_argument("--grace", type=int, default=0, metavar="SECONDS", help="the old one goes on for so long (0)")
    revoking = part(parts, "revoke", revoke, "revoke a key")
    revoking.add_argument("id", help="of the key, as keys list shows it")
    return whole
