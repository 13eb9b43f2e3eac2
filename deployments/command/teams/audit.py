"""`starcoder audit`: what was changed by whom, and whether the log is as it was written."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from deployments.api.openai.organization.audit_logs import AuditEntry, AuditPage, Verification
from deployments.command.tables import table
from deployments.command.teams.office import Office, OfficeError
from deployments.command.teams.running import day, part
from deployments.command.teams.running import run as run_parser
from deployments.options import OptionParser, positive
from deployments.teams.money import shown

_PAGE = 100


def run(arguments: Sequence[str]) -> int:
    return run_parser(parser(), arguments)


async def list_entries(office: Office, options: argparse.Namespace) -> int:
    entries = await _newest(office, options.last)
    if options.json:
        print(f"[{','.join(entry.model_dump_json() for entry in entries)}]")
        return 0
    rows = [
        [str(entry.number), day(entry.effective_at), entry.actor_id, entry.action, entry.subject, _detail(entry)]
        for entry in entries
    ]
    print(table(["no.", "when", "who", "what", "of what", "how"], rows, numbers=[0]))
    return 0


async def verify(office: Office, options: argparse.Namespace) -> int:
    found = await office.get("/audit_logs/verify", Verification)
    if not found.intact:
        raise OfficeError(f"the log is not as it was written: {found.reason}")
    print(f"{found.entries} entries, all of them as they were written")
    return 0


async def _newest(office: Office, count: int) -> list[AuditEntry]:
    """From oldest to newest."""
    entries: list[AuditEntry] = []
    after: str | None = None
    while len(entries) < count:
        page = await office.get("/audit_logs", AuditPage, limit=min(_PAGE, count - len(entries)), after=after)
        entries += page.data
        after = page.last_id
        if not page.has_more:
            break
    return entries[::-1]


def _detail(entry: AuditEntry) -> str:
    return " ".join(f"{name}={_shown(name, value)}" for name, value in entry.detail.items() if value is not None)


def _shown(name: str, value: str | int | float | bool) -> str:
    return f"${shown(value)}" if name.startswith("budget_amount") and isinstance(value, int) else str(value)


def parser() -> OptionParser:
    whole = OptionParser("starcoder audit", "What was changed by whom.")
    parts = whole.parts()
    listing = part(parts, "list", list_entries, "list the newest changes")
    listing.add_argument("--last", type=positive, default=50, metavar="N", help="so many (default: %(default)s)")
    listing.add_argument("--json", action="store_true", help="for programs")
    part(parts, "verify", verify, "tell whether the log is as it was written")
    return whole
