"""Records of teams as administrators' routes show them, field by field and without a database."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from deployments.api.openai.organization import audit_logs, limits, me, prices, usage, usage_csv
from deployments.api.openai.organization.fields import (
    BudgetAnswer,
    BudgetBody,
    ExpiryFields,
    LimitFields,
    cents,
    of_cents,
    seconds,
    usd,
)
from deployments.api.openai.organization.listing import ListPage, after
from deployments.api.openai.organization.names import Names
from deployments.api.openai.organization.route import _checked_query, serve_error
from deployments.errors import InvalidRequestError, NotFoundError
from deployments.teams import store_errors
from deployments.teams.records import Audit, Budget, Key, Limits, Price, Spent, Team, UsageRow
from deployments.teams.usage_pages import UsageBucket, UsagePage

NOW = 1_700_000_000.0
DAY = 86_400
DOLLAR = 10**12


def team_of(**fields: Any) -> Team:
    return Team(id="team_a", name="search", created_at=NOW, **fields)


def test_what_was_not_sent_stays_as_it_was() -> None:
    before = Limits(requests_per_minute=1, tokens_per_minute=2, parallel=3)
    assert LimitFields.model_validate({}).limits(before) == before
    sent = LimitFields.model_validate({"requests_per_minute": None, "parallel": 9, "other": 1})
    assert sent.limits_sent == {"requests_per_minute": None, "parallel": 9}
    assert sent.limits(before) == Limits(requests_per_minute=None, tokens_per_minute=2, parallel=9)
    for wrong in ({"parallel": 0}, {"parallel": "1"}, {"tokens_per_minute": 1.5}):
        with pytest.raises(ValidationError):
            LimitFields.model_validate(wrong)


def test_a_budget_and_what_is_spent_of_it() -> None:
    body = BudgetBody.model_validate({"amount_usd": "12.50", "period": "week", "hard": True})
    budget = Budget(amount=12 * DOLLAR + DOLLAR // 2, period="week", hard=True)
    assert body.budget() == budget
    assert BudgetBody.model_validate({"amount_usd": "1"}).budget() == Budget(amount=DOLLAR, period="month", hard=False)
    assert BudgetAnswer.of(team_of(), Spent(period_start=NOW, amount=1)) is None
    answer = {"amount_usd": "12.5", "period": "week", "hard": True}
    shown = BudgetAnswer.of(team_of(budget=budget), None)
    assert shown is not None
    assert shown.model_dump() == {**answer, "spent_usd": None, "period_start": None}
    shown = BudgetAnswer.of(team_of(budget=budget), Spent(period_start=NOW + 0.5, amount=3))
    assert shown is not None
    assert shown.model_dump() == {**answer, "spent_usd": "0.000000000003", "period_start": int(NOW)}
    for wrong in ("", "x", "-1", "0.0000000000001", "1" * 41, "NaN"):
        with pytest.raises(ValidationError):
            BudgetBody.model_validate({"amount_usd": wrong})


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({}, None),
        ({"expires": "90d"}, NOW + 90 * DAY),
        ({"expires_in_seconds": 60}, NOW + 60),
        ({"expires": "2024-01-01"}, 1_704_067_200.0),
    ],
)
def test_when_a_key_ends(body: dict[str, Any], at: float | None) -> None:
    assert ExpiryFields.model_validate(body).expires_at(NOW) == at


@pytest.mark.parametrize(
    ("body", "words", "code"),
    [
        ({"expires": "1d", "expires_in_seconds": 1}, "not both", None),
        ({"expires": "soon"}, "`expires`: 'soon' is neither", "invalid_value"),
        ({"expires": "2020-01-01"}, "`expires`: the end must be in the future", "invalid_value"),
        ({"expires_in_seconds": 10**10}, "`expires`: the end must be", "invalid_value"),
    ],
)
def test_an_end_that_is_none_is_refused(body: dict[str, Any], words: str, code: str | None) -> None:
    with pytest.raises(InvalidRequestError, match=words) as refused:
        ExpiryFields.model_validate(body).expires_at(NOW)
    assert refused.value.param == "expires"
    if code is not None:
        assert refused.value.code == code


def test_money_and_times_are_exact() -> None:
    amounts = (0, 1, DOLLAR, 100 * DOLLAR, 1_234_567_890_123)
    assert [usd(amount) for amount in amounts] == ["0", "0.000000000001", "1", "100", "1.234567890123"]
    assert [cents(amount) for amount in (0, 10**10 - 1, 10**10, DOLLAR)] == [0, 0, 1, 100]
    assert (of_cents(250), cents(of_cents(250))) == (250 * 10**10, 250)
    assert (seconds(None), seconds(0.0), seconds(7.9)) == (None, 0, 7)


class Item(BaseModel):
    of: str


def test_a_page_names_its_first_and_its_last() -> None:
    def page(items: list[str], cursor: str | None, limit: int, hidden: str = "") -> dict[str, Any]:
        found = after(items, cursor, limit, lambda item: f"id_{item}", lambda item: item not in hidden)
        return ListPage[Item].of(found, lambda item: Item(of=item), lambda item: f"id_{item}").model_dump()

    listed = {"object": "list", "data": [{"of": "b"}, {"of": "c"}], "first_id": "id_b", "last_id": "id_c"}
    assert page(list("abcd"), "id_a", 2) == {**listed, "has_more": True}
    assert page(list("abc"), "id_a", 2) == {**listed, "has_more": False}
    assert page(list("abc"), None, 2, hidden="a") == {**listed, "has_more": False}
    assert page(list("abcd"), "id_a", 2, hidden="ad") == {**listed, "has_more": False}
    empty = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert page([], None, 2) == page(list("abc"), "id_c", 2) == empty
    with pytest.raises(InvalidRequestError) as refused:
        page(list("abc"), "id_d", 2)
    assert refused.value.param == "after"


def test_limits_have_openais_names() -> None:
    team = team_of(limits=Limits(requests_per_minute=1, tokens_per_minute=2, parallel=3))
    assert limits._rate_limit(team).model_dump() == {
        "id": "all",
        "object": "project.rate_limit",
        "model": "*",
        "max_requests_per_1_minute": 1,
        "max_tokens_per_1_minute": 2,
        "max_parallel_requests": 3,
    }


@pytest.mark.parametrize(
    ("spent", "status"),
    [(None, "inactive"), (DOLLAR - 1, "inactive"), (DOLLAR, "enforcing"), (2 * DOLLAR, "enforcing")],
)
def test_a_spend_limit_and_how_it_stands(spent: int | None, status: str) -> None:
    team = team_of(budget=Budget(amount=DOLLAR, period="month", hard=True))
    sums = {"team_b": Spent(period_start=NOW, amount=9 * DOLLAR)}
    if spent is not None:
        sums["team_a"] = Spent(period_start=NOW, amount=spent)
    assert limits._spend_limit(team, sums).model_dump() == {
        "object": "project.spend_limit",
        "threshold_amount": 100,
        "currency": "USD",
        "interval": "month",
        "enforcement": {"status": status},
    }


@pytest.mark.parametrize("budget", [None, Budget(amount=1, hard=False), Budget(amount=1, period="week", hard=True)])
def test_another_budget_is_no_spend_limit(budget: Budget | None) -> None:
    with pytest.raises(NotFoundError, match="Team search has no hard limit a month"):
        limits._spend_limit(team_of(budget=budget), {})


def test_a_price_is_for_a_thousand_tokens() -> None:
    price = Price(model="m", input=500_000, cached=1, output=DOLLAR, valid_from=NOW + 0.5)
    assert prices.PriceAnswer.of(price).model_dump() == {
        "object": "organization.price",
        "model": "m",
        "input_usd_per_1k": "0.0005",
        "cached_usd_per_1k": "0.000000001",
        "output_usd_per_1k": "1000",
        "valid_from": int(NOW),
    }
    assert prices._from("2024-01-01", NOW) == 1_704_067_200.0
    assert prices._from("2024-01-01", 1_704_067_200.0) == 1_704_067_200.0
    for text, words in (("2020-01-01", "must not be in the past"), ("soon", "'soon' is neither")):
        with pytest.raises(InvalidRequestError, match=f"`valid_from`.*{words}") as refused:
            prices._from(text, NOW)
        assert (refused.value.param, refused.value.code) == ("valid_from", "invalid_value")


ROW = UsageRow(
    start=NOW,
    end=NOW + DAY,
    team_id="team_a",
    key_id="key_a",
    model="m",
    kind="generate",
    dialect="tabby",
    user="me",
    requests=1,
    prompt_tokens=20,
    cached_tokens=8,
    completion_tokens=5,
    replayed_tokens=2,
    cost=3 * DOLLAR,
    accepted=4,
    accepted_lines=7,
)
NAMES = Names({"team_a": "search"}, {"key_a": "ci"})
GROUPS = {"project_id": "team_a", "project_name": "search", "api_key_id": "key_a", "api_key_name": "ci"}
NO_GROUPS = dict.fromkeys(GROUPS)


def test_usage_field_by_field() -> None:
    found = usage._usage(ROW, NAMES).model_dump()
    assert found.pop("object", None) in (None, "organization.usage.completions.result")
    assert found == {
        **GROUPS,
        "model": "m",
        "user_id": "me",
        "kind": "generate",
        "dialect": "tabby",
        "num_model_requests": 1,
        "input_tokens": 20,
        "input_cached_tokens": 8,
        "input_uncached_tokens": 12,
        "output_tokens": 5,
        "replayed_tokens": 2,
        "cost_usd": "3",
        "accepted": 4,
        "accepted_lines": 7,
        "cost_per_accepted_line_usd": "0.428571428571",
    }
    bare = usage._usage(UsageRow(start=0, end=1), NAMES).model_dump()
    assert bare.items() >= {**NO_GROUPS, "cost_usd": "0", "cost_per_accepted_line_usd": None}.items()
    assert usage._groups(ROW, Names()) == {**GROUPS, "project_name": None, "api_key_name": None}


def test_costs_field_by_field() -> None:
    found = usage._cost(ROW, NAMES).model_dump()
    assert found.items() >= {**GROUPS, "amount_usd": "3", "line_item": "m, generate"}.items()
    assert found["amount"]["value"] == 3.0
    assert usage._cost(UsageRow(start=0, end=1, kind="generate"), NAMES).line_item is None


def test_pages_of_usage_are_named_by_their_start() -> None:
    assert usage._times(UsageBucket(NOW, NOW + DAY)) == {"start_time": int(NOW), "end_time": int(NOW) + DAY}
    assert (usage._next(UsagePage([], None)), usage._next(UsagePage([], NOW))) == (None, str(int(NOW)))
    for page in (10, 15, 20):
        assert usage._start_of(str(page), 10, 20.0) == page
    for page in ("9", "21", "-15", "\u0661\u0665", "x", "", "15.0"):
        with pytest.raises(InvalidRequestError) as refused:
            usage._start_of(page, 10, 20.0)
        assert (refused.value.param, refused.value.code) == ("page", "invalid_value")
    assert usage.distinct(None) is None
    assert usage.distinct(["b", "a", "b"]) == ("b", "a")


@pytest.mark.parametrize(
    ("group", "cells"),
    [
        ("day", ["2023-11-14"]),
        ("hour", ["2023-11-14T22:00Z"]),
        ("team", ["search", "team_a"]),
        ("key", ["ci", "key_a"]),
        ("model", ["m"]),
        ("kind", ["generate"]),
        ("dialect", ["tabby"]),
        ("user", ["me"]),
    ],
)
def test_a_cell_for_each_group(group: Any, cells: list[str]) -> None:
    assert usage_csv._group(ROW, group, NAMES) == cells
    assert len(usage_csv._COLUMNS[group]) == len(cells)
    if group not in ("day", "hour"):
        assert usage_csv._group(UsageRow(start=0, end=1), group, NAMES) == [""] * len(cells)
    if len(cells) == 2:
        assert usage_csv._group(ROW, group, Names()) == ["", cells[1]]


def test_sums_stand_below_their_names() -> None:
    sums = dict(zip(usage_csv._SUMS, usage_csv._sums(ROW), strict=True))
    assert sums == {
        "requests": "1",
        "prompt_tokens": "20",
        "cached_tokens": "8",
        "completion_tokens": "5",
        "replayed_tokens": "2",
        "cost_usd": "3",
        "accepted": "4",
        "accepted_lines": "7",
        "cost_per_accepted_line_usd": "0.428571428571",
    }
    assert usage_csv._sums(UsageRow(start=0, end=1))[-1] == ""
    assert usage_csv._line(["a", 'b"c', "d,e", ""]) == 'a,"b""c","d,e",\r\n'
    assert [usage_csv._bucket(by) for by in (["team"], ["team", "day"], ["day", "hour"], ["hour"])] == [  # type: ignore[list-item]
        *("all", "day", "hour", "hour")
    ]


def test_the_key_that_was_sent() -> None:
    key = Key(
        id="key_a",
        team_id="team_a",
        name="ci",
        digest=b"secret",
        pepper_id="p",
        last_four="wxyz",
        scopes=("generate", "usage"),
        created_at=NOW,
        created_by="local",
        limits=Limits(requests_per_minute=1, tokens_per_minute=2, parallel=3),
        expires_at=NOW + 0.5,
    )
    assert me._own(key).model_dump() == {
        "id": "key_a",
        "name": "ci",
        "last_four": "wxyz",
        "scopes": ["generate", "usage"],
        "expires_at": int(NOW),
        "requests_per_minute": 1,
        "tokens_per_minute": 2,
        "parallel": 3,
    }


def test_an_entry_of_the_log_field_by_field() -> None:
    row = Audit(
        number=7,
        at=NOW + 0.5,
        actor="key:key_a",
        action="odd.action",
        subject="team_a",
        detail={"a": 1},
        previous="p",
        digest="d",
    )
    entry = audit_logs.AuditEntry.of(row).model_dump()
    assert entry["actor"] == audit_logs._actor("key:key_a").model_dump()
    del entry["actor"]
    assert entry == {
        "id": f"{audit_logs._ID}7",
        "object": "organization.audit_log",
        "type": "odd.action",
        "effective_at": int(NOW),
        "number": 7,
        "action": "odd.action",
        "actor_id": "key:key_a",
        "subject": "team_a",
        "detail": {"a": 1},
        "previous": "p",
        "digest": "d",
    }
    for ours, openais in audit_logs._TYPES.items():
        assert audit_logs._ACTIONS[openais] == ours


def test_who_did_it() -> None:
    def shown(actor: str) -> tuple[Any, ...]:
        found = audit_logs._actor(actor)
        return found.type, found.api_key and found.api_key.id, found.session and found.session.user.id

    assert shown("key:key_a") == ("api_key", "key_a", None)
    assert shown("user:ada") == ("session", None, "ada")
    assert shown("local") == ("local", None, None)
    assert shown(audit_logs.PROVIDER) == ("provider", None, None)
    actors = ("local", audit_logs.PROVIDER, "key:x", "user:x", "key_a", "ada")
    assert [audit_logs._actor_of(actor) for actor in actors] == [*actors[:4], "key:key_a", "user:ada"]


@pytest.mark.parametrize("number", ["0", "7", "9" * 18])
def test_a_cursor_is_a_number_of_the_log(number: str) -> None:
    assert audit_logs._number(audit_logs._ID + number, "after") == int(number)
    for wrong in (number, audit_logs._ID + "-" + number, audit_logs._ID, audit_logs._ID + "9" * 19, "\u0667"):
        with pytest.raises(InvalidRequestError, match="There is no entry") as refused:
            audit_logs._number(wrong, "before")
        assert refused.value.param == "before"


@pytest.mark.parametrize(
    ("error", "status", "code", "message"),
    [
        (store_errors.NotFoundError("no such team"), 404, "not_found", "No such team."),
        (store_errors.NotAllowedError("not yours"), 403, None, "Not yours."),
        (store_errors.NameTakenError("taken"), 409, "name_taken", "Taken."),
        (store_errors.TooLongError("too much"), 400, "report_too_long", "Too much."),
        (store_errors.InvalidChangeError("odd"), 400, "invalid_change", "Odd."),
        (
            store_errors.StoreUnavailableError("secret"),
            503,
            "database_unavailable",
            "The database of teams does not answer at the moment.",
        ),
    ],
)
def test_what_the_store_says_in_http(error: Any, status: int, code: str | None, message: str) -> None:
    found = serve_error(error)
    assert (found.status, found.message) == (status, message)
    assert code is None or found.code == code
    assert found.retry_after == (2.0 if status == 503 else None)
    assert found.param == ("name" if status == 409 else None)


def test_lists_are_written_as_openais_clients_do() -> None:
    assert _checked_query(b"a[]=1&a[]=2&b=&a=%26", {"a", "b"}) == b"a=1&a=2&b=&a=%26"
    assert _checked_query(b"", {"a"}) == b""
    for query, name in ((b"c=1", "c"), (b"a=1&c[]=2", "c"), (b"[]=1", "")):
        with pytest.raises(InvalidRequestError, match="This route has no parameter") as refused:
            _checked_query(query, {"a", "b"})
        assert (refused.value.code, refused.value.param) == ("unknown_parameter", name)
