"""What commands about teams, keys and people ask of the API, and how they show the answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.deployments.command.teams.canned import (
    ADMIN_KEY,
    BUDGET,
    FEBRUARY,
    JANUARY,
    KEY,
    NEW_KEY,
    TEAM,
    USER,
    Api,
    cells,
    page,
)
from tests.deployments.command.teams.conftest import Starcoder


@pytest.mark.parametrize(
    ("line", "body"),
    [
        ("", {}),
        ("--weight 2.5 --class interactive", {"weight": 2.5, "service_class": "interactive"}),
        ("--rpm 6 --tpm 7 --parallel 8", {"requests_per_minute": 6, "tokens_per_minute": 7, "parallel": 8}),
        ("--rpm none --parallel none", {"requests_per_minute": None, "parallel": None}),
        ("--budget-usd 5", {"budget": {"amount_usd": "5", "period": "month", "hard": False}}),
        ("--budget-usd 5 --period day --hard", {"budget": {"amount_usd": "5", "period": "day", "hard": True}}),
        ("--budget-usd none", {"budget": None}),
    ],
)
def test_a_team_is_made_of_what_is_given(starcoder: Starcoder, api: Api, line: str, body: dict[str, Any]) -> None:
    api.answers = [TEAM]
    said = starcoder(f"teams create nightly {line}")
    assert api.does("POST", "/projects", {"name": "nightly", **body})
    assert said.out == ""
    how = "`starcoder keys create --team nightly` makes a key for it."
    assert said.words == f"Team nightly is made (team_1). {how}\n"


@pytest.mark.parametrize(
    ("line", "before", "body"),
    [
        ("--rename b", None, {"name": "b"}),
        ("--weight 2", None, {"weight": 2.0}),
        ("--hard", BUDGET | {"hard": False}, {"budget": {"amount_usd": "1234.5", "period": "week", "hard": True}}),
        ("--no-hard", BUDGET, {"budget": {"amount_usd": "1234.5", "period": "week", "hard": False}}),
        ("--period day", BUDGET, {"budget": {"amount_usd": "1234.5", "period": "day", "hard": True}}),
        ("--budget-usd 7", BUDGET, {"budget": {"amount_usd": "7", "period": "week", "hard": True}}),
        ("--budget-usd 7", None, {"budget": {"amount_usd": "7", "period": "month", "hard": False}}),
        ("--budget-usd none", BUDGET, {"budget": None}),
    ],
)
def test_what_is_not_said_of_a_budget_stays(
    starcoder: Starcoder, api: Api, line: str, before: object, body: dict[str, Any]
) -> None:
    api.answers = [{**TEAM, "budget": before}, TEAM]
    shown = starcoder(f"teams set a/b {line}").out
    assert api.asked == [("GET", "/projects/a%2Fb", {}, None), ("POST", "/projects/a%2Fb", {}, body)]
    assert ["name", "nightly"] in cells(shown)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "nothing to set: see starcoder teams set --help"),
        ("--hard", "--period and --hard are of a budget: say --budget-usd"),
    ],
)
def test_nothing_is_sent_where_nothing_can_be_set(starcoder: Starcoder, api: Api, line: str, why: str) -> None:
    api.answers = [TEAM]
    assert starcoder(f"teams set a {line}", code=1).words == f"starcoder teams: {why}\n"
    assert [method for method, *_ in api.asked] == ["GET"]


def test_teams_as_a_table(starcoder: Starcoder, api: Api) -> None:
    old = {**TEAM, "name": "a", "archived_at": FEBRUARY, "budget": {**BUDGET, "hard": False, "spent_usd": None}}
    api.answers = [page({**TEAM, "budget": BUDGET}, more=True), page(old)]
    assert starcoder("teams list --archived").out.splitlines() == [
        "team          class  weight    rpm  tpm  parallel  budget                 spent",
        "a (archived)  batch     0.5  1,200    -         4  $1234.50 a week        -",
        "nightly       batch     0.5  1,200    -         4  $1234.50 a week, hard  $0.75",
    ]
    first, second = api.asked
    assert first == ("GET", "/projects", {"include_archived": "true", "limit": "100"}, None)
    assert second[2] == {"include_archived": "true", "limit": "100", "after": "team_1"}
    api.answers, api.asked = [page(TEAM)], []
    assert json.loads(starcoder("teams list --json").out) == [{**TEAM, "object": "organization.project"}]
    assert api.asked[0][2]["include_archived"] == "false"


def test_a_team_as_people_and_as_programs_read_it(starcoder: Starcoder, api: Api) -> None:
    terms = {"terms_version": "v2", "terms_accepted_at": FEBRUARY, "terms_accepted_by": "key:9"}
    api.answers = [{**TEAM, **terms, "budget": BUDGET, "archived_at": FEBRUARY}]
    assert cells(starcoder("teams show nightly").out) == [
        ["team"],
        ["name", "nightly"],
        ["id", "team_1"],
        ["made", "2027-01-01 00:00"],
        ["class", "batch"],
        ["weight", "0.5"],
        ["requests a minute", "1,200"],
        ["tokens a minute", "-"],
        ["requests at once", "4"],
        ["budget", "$1234.50 a week, hard"],
        ["spent", "$0.75"],
        ["use restrictions", "v2, accepted 2027-02-01 00:00 by key:9"],
        ["archived", "2027-02-01 00:00"],
    ]
    assert api.does("GET", "/projects/nightly")
    api.answers = [TEAM]
    assert json.loads(starcoder("teams show nightly --json").out)["name"] == "nightly"
    shown = cells(starcoder("teams show nightly").out)
    assert shown[9:] == [["budget", "-"], ["spent", "-"], ["use restrictions", "not accepted"]]


def test_a_team_ends_and_accepts(starcoder: Starcoder, api: Api) -> None:
    api.answers = [{**TEAM, "terms_version": "v2"}]
    said = starcoder("teams archive a/b").words
    assert said == "Team nightly is archived, and its keys are revoked. What it used stays on the ledger.\n"
    said = starcoder("teams accept-terms a/b 2023-05").words
    assert said == "Version v2 of the use restrictions is accepted for nightly.\n"
    assert api.asked == [
        ("POST", "/projects/a%2Fb/archive", {}, {}),
        ("POST", "/projects/a%2Fb/terms", {}, {"version": "2023-05"}),
    ]


@pytest.mark.parametrize(
    ("line", "body"),
    [
        ("", {"name": "key"}),
        ("--name ci --expires 90d", {"name": "ci", "expires": "90d"}),
        ("--scopes generate,usage", {"name": "key", "scopes": ["generate", "usage"]}),
        (
            "--rpm 1 --tpm 2 --parallel 3",
            {"name": "key", "requests_per_minute": 1, "tokens_per_minute": 2, "parallel": 3},
        ),
    ],
)
def test_a_key_is_printed_alone(starcoder: Starcoder, api: Api, line: str, body: dict[str, Any]) -> None:
    api.answers = [NEW_KEY]
    said = starcoder(f"keys create --team a/b {line}")
    assert api.does("POST", "/projects/a%2Fb/api_keys", body)
    assert said.out == "sk-sc-new\n"
    assert said.words == ("Key key_1 of team a/b, until 2027-02-01 00:00. It is shown once, and not stored:\n")


def test_scopes_may_have_spaces_between(starcoder: Starcoder, api: Api) -> None:
    api.answers = [{**NEW_KEY, "expires_at": None}]
    said = starcoder("keys create --team a --scopes", "generate, metrics")
    assert api.does("POST", "/projects/a/api_keys", {"name": "key", "scopes": ["generate", "metrics"]})
    assert said.words == "Key key_1 of team a, without an end. It is shown once, and not stored:\n"


@pytest.mark.parametrize(("line", "body"), [("", {}), (" --expires 12h", {"expires": "12h"})])
def test_an_administrators_key(starcoder: Starcoder, api: Api, line: str, body: dict[str, Any]) -> None:
    api.answers = [ADMIN_KEY]
    said = starcoder(f"keys create --admin --name boss{line}")
    assert api.does("POST", "/admin_api_keys", {"name": "boss", **body})
    words = "Administrator's key key_9, without an end. It is shown once, and not stored:\n"
    assert said == ("sk-sc-admin\n", words)


@pytest.mark.parametrize(
    "more",
    ["--rpm 1", "--tpm 1", "--parallel 1", "--scopes admin", "--expires 1d --rpm 1", "--expires 1d --scopes admin"],
)
def test_an_administrators_key_has_no_limits(starcoder: Starcoder, api: Api, more: str) -> None:
    said = starcoder(f"keys create --admin {more}", code=1).words
    assert said == "starcoder keys: scopes and limits are of keys of a team\n"
    assert api.asked == []


def test_one_is_made_only_where_none_is_good(starcoder: Starcoder, api: Api) -> None:
    ended = {**ADMIN_KEY, "id": "key_8", "expires_at": JANUARY - 40 * 366 * 86_400}
    api.answers = [page(ended, more=True), page(ADMIN_KEY)]
    said = starcoder("keys create --admin --if-none")
    assert said == ("", "There is an administrator's key already (key_9, boss): none was made.\n")
    assert [method for method, *_ in api.asked] == ["GET", "GET"]
    api.answers = [page({**ADMIN_KEY, "expires_at": JANUARY + 40 * 366 * 86_400})]
    assert "(key_9, boss)" in starcoder("keys create --admin --if-none").words
    api.answers, api.asked = [page(ended), ADMIN_KEY], []
    assert starcoder("keys create --admin --if-none").out == "sk-sc-admin\n"
    assert [method for method, *_ in api.asked] == ["GET", "POST"]
    api.asked = []
    assert "--if-none is of administrators' keys" in starcoder("keys create --team a --if-none", code=1).words
    assert api.asked == []


def test_keys_as_a_table(starcoder: Starcoder, api: Api) -> None:
    admin = {**KEY, "id": "key_9", "project_id": None, "project_name": None, "expires_at": None, "scopes": ["admin"]}
    api.answers = [page(KEY, admin)]
    table = [
        ["id", "name", "team", "ends in", "scopes", "expires"],
        ["key_1", "ci", "nightly", "...wxyz", "generate,usage", "2027-02-01 00:00"],
        ["key_9", "ci", "(administrators)", "...wxyz", "admin", "never"],
    ]
    assert cells(starcoder("keys list").out) == table
    assert api.does("GET", "/api_keys", limit="500")
    for name in "nightly", "team_1":
        assert cells(starcoder(f"keys list --team {name}").out) == table[:2]
    assert cells(starcoder("keys list --team other").out) == table[:1]
    assert [key["id"] for key in json.loads(starcoder("keys list --json").out)] == ["key_1", "key_9"]
    assert json.loads(starcoder("keys list --json --team other").out) == []


@pytest.mark.parametrize(("line", "grace", "ends"), [("", 0, "now"), (" --grace 60", 60, "in 60 s")])
def test_a_key_takes_the_place_of_another(starcoder: Starcoder, api: Api, line: str, grace: int, ends: str) -> None:
    api.answers = [{"id": "key_2", "replaces": "key_1", "value": "sk-sc-new"}]
    said = starcoder(f"keys rotate key/1{line}")
    assert api.does("POST", "/api_keys/key%2F1/rotate", {"grace_seconds": grace})
    assert said.out == "sk-sc-new\n"
    words = f"Key key_2 takes the place of key_1, which ends {ends}. It is shown once, and not stored:\n"
    assert said.words == words


def test_a_key_is_revoked(starcoder: Starcoder, api: Api) -> None:
    api.answers = [{}]
    assert starcoder("keys revoke key/1").words == "Key key/1 is revoked; servers refuse it within 2 seconds.\n"
    assert api.does("DELETE", "/api_keys/key%2F1")


def test_people(starcoder: Starcoder, api: Api) -> None:
    api.answers = [USER]
    assert starcoder("members add --team a/b idp|a/b").words == "idp|a/b is owner in a/b.\n"
    assert api.does("POST", "/projects/a%2Fb/users", {"user_id": "idp|a/b", "role": "member"})
    api.asked = []
    starcoder("members add --team a --role viewer bob")
    assert api.does("POST", "/projects/a/users", {"user_id": "bob", "role": "viewer"})
    api.answers, api.asked = [page(USER, {**USER, "id": "bob", "name": None, "email": "b@example.com"})], []
    assert cells(starcoder("members list --team a/b").out) == [
        ["person", "role", "name", "email"],
        ["idp|a/b", "owner", "Ada", "-"],
        ["bob", "owner", "-", "b@example.com"],
    ]
    assert api.does("GET", "/projects/a%2Fb/users", limit="100")
    api.answers, api.asked = [{}], []
    said = starcoder("members remove --team a/b idp|a/b").words
    assert said == "idp|a/b is not in a/b any more, and the keys that they made for it are revoked.\n"
    assert api.does("DELETE", "/projects/a%2Fb/users/idp%7Ca%2Fb")
