"""From who somebody is to a session and a place in teams, without a provider and without a database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from deployments.sign_on_settings import group_roles
from deployments.teams.keys import Pepper
from deployments.teams.records import Member, Team
from deployments.teams.seal import Seal
from deployments.teams.sign_in import Attempt, Person
from deployments.teams.sign_in_errors import SignInError
from deployments.teams.sign_on import Groups, SignOn
from deployments.teams.store_errors import NotFoundError, StoreUnavailableError
from tests.support.log_lines import captured

ADA = Person(user="ada", email="ada@example.com", name="Ada", groups=frozenset({"devs"}))
ATTEMPT = Attempt(state="s", nonce="n", verifier="v", target="/teams")
ANSWER = {"state": "s", "code": "c"}


@dataclass
class Elsewhere:
    """Provider, sessions and store in one. changes: who changed what. away: the database is."""

    person: Person = ADA
    teams: tuple[str, ...] = ("search", "ads")
    members: list[Member] = field(default_factory=list)
    changes: list[tuple[object, ...]] = field(default_factory=list)
    created: list[tuple[object, ...]] = field(default_factory=list)
    closed: int = 0
    away: bool = False
    seal: Seal = field(default_factory=lambda: Seal(lambda: Pepper(b"x" * 32)))

    async def finish(self, attempt: Attempt | None, answer: Mapping[str, str]) -> Person:
        assert (attempt, answer) == (ATTEMPT, ANSWER)
        return self.person

    async def create(self, user: str, email: str | None, name: str | None, lifetime_s: float, admin: bool) -> str:
        self.created.append((user, email, name, lifetime_s, admin))
        return "a token"

    async def close(self) -> None:
        self.closed += 1

    async def open(self) -> Elsewhere:
        if self.away:
            raise StoreUnavailableError("the disk is full")
        return self

    async def memberships(self, user: str) -> list[Member]:
        return [member for member in self.members if member.user == user]

    async def team(self, id_or_name: str) -> Team:
        if id_or_name not in self.teams:
            raise NotFoundError(id_or_name)
        return Team(id=f"team_{id_or_name}", name=id_or_name, created_at=0.0)

    async def set_member(self, actor: str, member: Member) -> Member:
        self.changes.append((actor, member.team_id, member.user, member.role, member.email, member.name))
        return member

    async def remove_member(self, actor: str, team_id: str, user: str) -> None:
        self.changes.append((actor, team_id, user, None))


def sign_on(there: Elsewhere, groups: str = "devs=search:member, leads=search:owner, ads=ads:viewer") -> SignOn:
    rules = Groups("admins", group_roles(groups))
    return SignOn(there, there, there.open, rules, "https://code.example.com/", 3600.0)  # type: ignore[arg-type]


def ada_in(team: str, role: str, name: str = "Ada") -> Member:
    return Member(user="ada", team_id=f"team_{team}", role=role, email="ada@example.com", name=name)  # type: ignore[arg-type]


async def test_who_is_new_gets_the_role_of_their_group_and_a_session() -> None:
    there = Elsewhere()
    assert await sign_on(there).finish(ATTEMPT, ANSWER) == "a token"
    assert there.changes == [("provider", "team_search", "ada", "member", "ada@example.com", "Ada")]
    assert there.created == [("ada", "ada@example.com", "Ada", 3600.0, False)]


async def test_who_is_where_they_belong_changes_nothing() -> None:
    """No row of the audit log tells that somebody signed in."""
    there = Elsewhere(members=[ada_in("search", "member"), ada_in("other", "viewer")])
    await sign_on(there).finish(ATTEMPT, ANSWER)
    assert there.changes == []


@pytest.mark.parametrize("changed", [{"email": "ada@example.org"}, {"email": None}, {"name": "Ada L."}, {"name": None}])
async def test_what_they_are_called_is_news_in_every_team(changed: dict[str, str | None]) -> None:
    there = Elsewhere(members=[ada_in("search", "member"), ada_in("other", "owner")])
    told = {"email": ADA.email, "name": ADA.name} | changed
    there.person = Person(user="ada", groups=ADA.groups, **told)
    await sign_on(there).finish(ATTEMPT, ANSWER)
    assert there.changes == [
        ("provider", "team_search", "ada", "member", told["email"], told["name"]),
        ("provider", "team_other", "ada", "owner", told["email"], told["name"]),
    ]


async def test_groups_move_people_and_take_them_out() -> None:
    there = Elsewhere(members=[ada_in("search", "member"), ada_in("ads", "viewer")])
    there.person = Person(user="ada", email=ADA.email, name=ADA.name, groups=frozenset({"devs", "leads"}))
    await sign_on(there).finish(ATTEMPT, ANSWER)
    assert there.changes == [
        ("provider", "team_search", "ada", "owner", "ada@example.com", "Ada"),
        ("provider", "team_ads", "ada", None),
    ]


async def test_a_team_that_there_is_not_is_told_and_keeps_nobody_from_the_others() -> None:
    there = Elsewhere(teams=("search",))
    with captured("warning") as lines:
        await sign_on(there, "devs=gone:owner, devs=search:member, leads=gone:viewer").finish(ATTEMPT, ANSWER)
    assert [change[1] for change in there.changes] == ["team_search"]
    (line,) = lines.all("sign_on.no_such_team")
    assert (line["level"], "'gone'" in line["message"]) == ("warning", True)


@pytest.mark.parametrize(("groups", "admin"), [({"admins"}, True), ({"admins", "devs"}, True), (set(), False)])
async def test_administrators_are_those_of_their_group(groups: set[str], admin: bool) -> None:
    there = Elsewhere(person=Person(user="ada", email=None, name=None, groups=frozenset(groups)))
    with captured() as lines:
        await sign_on(there).finish(ATTEMPT, ANSWER)
    assert there.created == [("ada", None, None, 3600.0, admin)]
    (line,) = lines.all("sign_on.signed_in")
    assert (line["user"], line["admin"]) == ("ada", admin)


async def test_without_a_database_nobody_signs_in_and_the_log_may_say_why() -> None:
    there = Elsewhere(away=True)
    with pytest.raises(SignInError, match="Try again") as refused:
        await sign_on(there).finish(ATTEMPT, ANSWER)
    assert refused.value.reason == "the disk is full"
    assert there.created == []


async def test_attempts_have_the_seal_of_sessions_and_both_ends_are_closed() -> None:
    there = Elsewhere()
    on = sign_on(there)
    kept = await on.attempts.write(ATTEMPT)
    assert await sign_on(Elsewhere()).attempts.read(kept) == ATTEMPT, "another process with the same pepper"
    assert (on.public_url, on.lifetime_s) == ("https://code.example.com", 3600.0)
    await on.close()
    assert there.closed == 2
