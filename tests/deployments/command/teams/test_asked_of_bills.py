"""What commands about money and the audit log ask of the API, how they show the answer, and what none of them asks."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.deployments.command.teams.canned import FEBRUARY, JANUARY, PRICE, USED, Api, cells, entry, page
from tests.deployments.command.teams.conftest import Starcoder


@pytest.mark.parametrize(
    ("line", "more"),
    [
        ("", {"output_usd_per_1k": "0.001"}),
        ("--output 0.002 --cached 0", {"output_usd_per_1k": "0.002", "cached_usd_per_1k": "0"}),
        ("--from 2027-01-01", {"output_usd_per_1k": "0.001", "valid_from": "2027-01-01"}),
    ],
)
def test_a_price(starcoder: Starcoder, api: Api, line: str, more: dict[str, str]) -> None:
    api.answers = [PRICE]
    said = starcoder(f"prices set starcoder --input 0.001 {line}")
    assert api.does("POST", "/prices", {"model": "starcoder", "input_usd_per_1k": "0.001", **more})
    assert said.words == "1,000 tokens of starcoder cost this from 2027-01-01 00:00 on.\n"


def test_prices_as_a_table(starcoder: Starcoder, api: Api) -> None:
    api.answers = [{"data": [{**PRICE, "model": "*", "valid_from": 0, "input_usd_per_1k": "1"}, PRICE]}]
    assert starcoder("prices list").out.splitlines() == [
        "model        prompt  cached  generated  valid from",
        "(any other)       1  0.0005      0.002  always",
        "starcoder     0.001  0.0005      0.002  2027-01-01 00:00",
    ]
    assert api.does("GET", "/prices")


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("prices set starcoder", "--input"),
        ("members add bob", "--team"),
        ("members list", "--team"),
        ("members remove bob", "--team"),
        ("members add --team a --role king bob", "king"),
        ("keys create", "--team"),
        ("keys create --team a --admin", "--admin"),
        ("keys create --team a --rpm 0", "--rpm"),
        ("keys create --team a --tpm none", "--tpm"),
        ("keys create --team a --parallel 1.5", "--parallel"),
        ("keys rotate k --grace soon", "--grace"),
        ("keys rotate", "id"),
        ("keys revoke", "id"),
        ("teams create", "name"),
        ("teams create a --rpm 0", "--rpm"),
        ("teams set a --tpm x", "--tpm"),
        ("teams create a --parallel -1", "--parallel"),
        ("teams create a --weight heavy", "--weight"),
        ("teams create a --class urgent", "--class"),
        ("teams create a --period year", "--period"),
        ("teams accept-terms a", "version"),
        ("audit list --last 0", "--last"),
        ("usage --by team,", "'' is none of team, key, model"),
        ("usage --to 2027-13-01", "'2027-13-01' is no day"),
        ("teams", "COMMAND"),
        ("keys", "COMMAND"),
        ("members", "COMMAND"),
        ("prices", "COMMAND"),
        ("audit", "COMMAND"),
    ],
)
def test_what_is_missing_or_wrong_is_said_before_anything_is_asked(
    starcoder: Starcoder, api: Api, line: str, wrong: str
) -> None:
    said = starcoder(line, code=2)
    assert wrong in said.words.splitlines()[0]
    assert (said.out, api.asked) == ("", [])


def used(*buckets: tuple[int, list[dict[str, Any]]], next_page: str | None = None) -> dict[str, Any]:
    data = [{"start_time": start, "end_time": start + 86_400, "results": results} for start, results in buckets]
    return {"data": data, "has_more": next_page is not None, "next_page": next_page}


def test_a_bill_by_day_in_pages(starcoder: Starcoder, api: Api) -> None:
    more = {**USED, "project_name": None, "cost_usd": "0.25", "accepted_lines": 0, "num_model_requests": 1}
    api.answers = [used((JANUARY, [USED]), next_page="p2"), used((JANUARY + 86_400, [more]))]
    shown = starcoder("usage --from 2027-01-01 --to 2027-02-01 --by day,team --team nightly").out
    assert shown.splitlines() == [
        "day         team     requests  prompt  cached  generated     USD  accepted lines  USD a line",
        "2027-01-01  nightly     1,000  20,000   5,000        300  1.5000               4    0.375000",
        "2027-01-02  team_1          1  20,000   5,000        300  0.2500               0           -",
        "total                   1,001  40,000  10,000        600  1.7500               4    0.437500",
    ]
    asked = {
        "start_time": str(JANUARY),
        "end_time": str(FEBRUARY),
        "bucket_width": "1d",
        "group_by": "project_id",
        "project_ids": "nightly",
        "limit": "31",
    }
    assert api.asked == [
        ("GET", "/usage/completions", asked, None),
        ("GET", "/usage/completions", {**asked, "page": "p2"}, None),
    ]


def test_a_bill_by_everything_else(starcoder: Starcoder, api: Api) -> None:
    api.answers = [used((JANUARY, [USED]))]
    shown = cells(starcoder("usage --from 2027-01-01 --by key,model,kind,dialect,user,key").out)
    assert shown[0][:5] == ["key", "model", "kind", "dialect", "user"]
    assert shown[1][:5] == ["ci key_1", "starcoder", "completed", "openai", "-"]
    assert len(shown) == 2, "one row needs no total"
    groups = ["api_key_id", "model", "kind", "dialect", "user_id"]
    assert api.does("GET", "/usage/completions", start_time=str(JANUARY), bucket_width="all", group_by=groups)
    nobody = {**USED, "api_key_name": None, "api_key_id": "key_1"}
    api.answers = [used((JANUARY, [nobody, {**nobody, "api_key_id": None}]))]
    shown = cells(starcoder("usage --by key").out)
    assert [row[0] for row in shown[1:]] == ["key_1", "-", "total"]
    api.answers, api.asked = [used()], []
    assert len(starcoder("usage --by day").out.splitlines()) == 1
    assert "group_by" not in api.asked[0][2]
    assert "end_time" not in api.asked[0][2]


def test_a_bill_for_spreadsheets_passes_as_it_is(starcoder: Starcoder, api: Api) -> None:
    api.answers = [httpx.Response(200, text="day,team\r\n2027-01-01,a\r\n")]
    said = starcoder("usage --csv --from 2027-01-01 --to 2027-02-01 --by day,team --team a")
    assert api.does(
        "GET",
        "/usage.csv",
        start_time=str(JANUARY),
        end_time=str(FEBRUARY),
        by=["day", "team"],
        project_ids="a",
    )
    assert said.out.splitlines() == ["day,team", "2027-01-01,a"]
    api.answers, api.asked = [httpx.Response(404, json={"error": {"message": "There is no such team."}})], []
    assert "There is no such team." in starcoder("usage --csv --from 2027-01-01", code=1).words
    assert api.does("GET", "/usage.csv", start_time=str(JANUARY), by="team")


def test_changes_from_oldest_to_newest(starcoder: Starcoder, api: Api) -> None:
    api.answers = [page(entry(12), entry(11), more=True), page(entry(10, detail={}), more=True)]
    shown = starcoder("audit list --last 3").out.splitlines()
    assert shown == [
        "no.  when              who    what          of what  how",
        " 10  2027-02-01 00:00  local  team.changed  team_1",
        " 11  2027-02-01 00:00  local  team.changed  team_1   weight=2.0 budget_amount=$5.00 budget_hard=True",
        " 12  2027-02-01 00:00  local  team.changed  team_1   weight=2.0 budget_amount=$5.00 budget_hard=True",
    ]
    assert [query for _, _, query, _ in api.asked] == [{"limit": "3"}, {"limit": "1", "after": "audit_11"}]
    api.answers, api.asked = [page(entry(2), entry(1))], []
    assert [one["number"] for one in json.loads(starcoder("audit list --json").out)] == [1, 2]
    assert api.does("GET", "/audit_logs", limit="50")
    api.asked = []
    starcoder("audit list --last 250")
    assert api.does("GET", "/audit_logs", limit="100")


def test_the_log_is_as_it_was_written_or_not(starcoder: Starcoder, api: Api) -> None:
    api.answers = [{"intact": True, "entries": 12, "broken_at": None, "reason": None}]
    assert starcoder("audit verify").out == "12 entries, all of them as they were written\n"
    assert api.does("GET", "/audit_logs/verify")
    api.answers = [{"intact": False, "entries": None, "broken_at": 3, "reason": "entry 3 was changed"}]
    said = starcoder("audit verify", code=1)
    assert said == ("", "starcoder audit: the log is not as it was written: entry 3 was changed\n")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.Response(403, json={"error": {"message": "not for you"}}), "not for you"),
        (httpx.Response(502, text="<html>"), "the server answered 502, and not as this program does"),
        (httpx.Response(500, content=b"\xff"), "the server answered 500, and not as this program does"),
        (httpx.Response(400, json={"error": "no"}), "the server answered 400, and not as this program does"),
        (httpx.Response(400, json=[]), "the server answered 400, and not as this program does"),
        (httpx.Response(404, json={"detail": "x"}), "the server answered 404, and not as this program does"),
    ],
)
@pytest.mark.parametrize("line", ["teams show a", "keys revoke a", "teams archive a", "usage --csv"])
def test_a_refusal_in_the_servers_words(
    starcoder: Starcoder, api: Api, line: str, answer: httpx.Response, words: str
) -> None:
    api.answers = [answer]
    assert starcoder(line, code=1) == ("", f"starcoder {line.split()[0]}: {words}\n")


@pytest.mark.parametrize("line", ["teams show a", "keys revoke a", "usage --csv"])
@pytest.mark.parametrize(
    ("error", "words"),
    [(httpx.ConnectError("nobody is there"), "nobody is there"), (httpx.ReadTimeout(""), "ReadTimeout")],
)
def test_a_server_that_does_not_answer_is_named(
    starcoder: Starcoder, api: Api, line: str, error: Exception, words: str
) -> None:
    api.answers = [error]
    assert starcoder(line, code=1) == ("", f"starcoder {line.split()[0]}: http://api: {words}\n")


@pytest.mark.parametrize("last", [100, 101])
def test_of_changes_so_many_are_asked_for_as_are_missing(starcoder: Starcoder, api: Api, last: int) -> None:
    """A hundred at once."""
    pages = [[entry(number) for number in range(201 - 100 * part, 101 - 100 * part, -1)] for part in (0, 1)]
    api.answers = [page(*pages[0], more=True), page(*pages[1][: last - 100], more=True)]
    shown = json.loads(starcoder(f"audit list --json --last {last}").out)
    assert [one["number"] for one in shown] == list(range(202 - last, 202))
    assert [query["limit"] for _, _, query, _ in api.asked] == ["100", "1"][: 1 + (last > 100)]


def test_a_cost_of_accepted_lines_is_of_all_that_they_cost(starcoder: Starcoder, api: Api) -> None:
    """To a millionth of a dollar."""
    third = {**USED, "cost_usd": "0.00001", "accepted_lines": 3}
    api.answers = [used((JANUARY, [third, {**USED, "cost_usd": "0.123456789012", "accepted_lines": 1000}]))]
    shown = cells(starcoder("usage --by model").out)
    assert [row[-3:] for row in shown[1:]] == [
        ["0.00001", "3", "0.000003"],
        ["0.1235", "1,000", "0.000123"],
        ["0.1235", "1,003", "0.000123"],
    ]
