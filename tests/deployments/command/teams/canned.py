"""An API of administrators that says what a test wants, and what it may say."""

from __future__ import annotations

import json
from typing import Any

import httpx

JANUARY, FEBRUARY = 1_798_761_600, 1_801_440_000
"""2027-01-01 and 2027-02-01, 00:00 UTC."""

LIMITS = {"requests_per_minute": 1200, "tokens_per_minute": None, "parallel": 4}
BUDGET = {"amount_usd": "1234.5", "period": "week", "hard": True, "spent_usd": "0.75", "period_start": JANUARY}
TEAM = {
    "id": "team_1",
    "created_at": JANUARY,
    "name": "nightly",
    "status": "active",
    "archived_at": None,
    "weight": 0.5,
    "service_class": "batch",
    "budget": None,
    "terms_version": None,
    "terms_accepted_at": None,
    "terms_accepted_by": None,
    **LIMITS,
}
KEY = {
    "id": "key_1",
    "created_at": JANUARY,
    "created_by": "local",
    "name": "ci",
    "project_id": "team_1",
    "project_name": "nightly",
    "last_four": "wxyz",
    "scopes": ["generate", "usage"],
    "expires_at": FEBRUARY,
    **LIMITS,
}
NEW_KEY = {
    **KEY,
    "redacted_value": "sk-sc-...wxyz",
    "owner": {"type": "user", "user": None, "service_account": None},
    "owner_project_access": "active",
    "value": "sk-sc-new",
}
ADMIN_KEY = {
    "id": "key_9",
    "created_at": JANUARY,
    "name": "boss",
    "last_four": "wxyz",
    "redacted_value": "sk-sc-...wxyz",
    "expires_at": None,
    "scopes": ["admin"],
    "owner": {"id": "local"},
    "value": "sk-sc-admin",
}
USER = {"id": "idp|a/b", "added_at": JANUARY, "role": "owner", "email": None, "name": "Ada"}
PRICE = {
    "model": "starcoder",
    "input_usd_per_1k": "0.001",
    "cached_usd_per_1k": "0.0005",
    "output_usd_per_1k": "0.002",
    "valid_from": JANUARY,
}
USED = {
    "project_id": "team_1",
    "project_name": "nightly",
    "api_key_id": "key_1",
    "api_key_name": "ci",
    "object": "organization.usage.completions.result",
    "model": "starcoder",
    "user_id": None,
    "kind": "completed",
    "dialect": "openai",
    "num_model_requests": 1000,
    "input_tokens": 20_000,
    "input_cached_tokens": 5000,
    "input_uncached_tokens": 15_000,
    "output_tokens": 300,
    "replayed_tokens": 0,
    "cost_usd": "1.5",
    "accepted": 1,
    "accepted_lines": 4,
    "cost_per_accepted_line_usd": "0.375",
}


def entry(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"audit_{number}",
        "type": "project.updated",
        "effective_at": FEBRUARY,
        "actor": {"type": "local", "api_key": None, "session": None},
        "number": number,
        "action": "team.changed",
        "actor_id": "local",
        "subject": "team_1",
        "detail": {"weight": 2.0, "name": None, "budget_amount": 5 * 10**12, "budget_hard": True},
        "previous": "",
        "digest": "",
        **fields,
    }


def page(*items: dict[str, Any], more: bool = False) -> dict[str, Any]:
    return {"data": items, "first_id": None, "last_id": items[-1]["id"] if items else None, "has_more": more}


class Api:
    """answers: one after the other, or what is raised; the last one for good.

    asked: method, path, query and body of each request.
    """

    def __init__(self) -> None:
        self.answers: list[object] = []
        self.asked: list[tuple[str, str, dict[str, Any], object]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        query = {
            name: values[0] if len(values := request.url.params.get_list(name)) == 1 else values
            for name in request.url.params
        }
        path = request.url.raw_path.decode().partition("?")[0].removeprefix("/v1/organization")
        assert len(self.asked) < 9, "it asks for ever"
        self.asked.append((request.method, path, query, json.loads(request.content) if request.content else None))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    def does(self, method: str, path: str, body: object = None, **query: Any) -> bool:
        """Whether that was the one request."""
        assert self.asked == [(method, path, {name: value for name, value in query.items() if value}, body)]
        return True


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in table.splitlines()]
