"""Whose account a request is on, and what its tokens cost."""

from __future__ import annotations

from deployments.teams.books import Books
from deployments.teams.counting import Account
from deployments.teams.directory import Directory
from deployments.teams.principal import LOCAL, Principal
from deployments.teams.records import Budget, Limits, Price, Spent, Team
from tests.support.stores import a_key

TEAM = Team(
    id="team_a", name="a", created_at=0.0, limits=Limits(tokens_per_minute=9), budget=Budget(amount=5, period="day")
)
DEFAULT = Price(model="*", input=1, cached=1, output=1, valid_from=0.0)
OWN = Price(model="m", input=2, cached=2, output=2, valid_from=0.0)


class Known(Directory):
    """Knows one team's spending and one model's price."""

    def __init__(self) -> None:
        pass

    def spent(self, team_id: str) -> Spent | None:
        return {"team_a": Spent(period_start=1.0, amount=3)}.get(team_id)

    def price(self, model: str) -> Price | None:
        return {"m": OWN}.get(model)


def test_the_accounts_are_the_teams_and_then_the_keys() -> None:
    books, key = Books(Known(), DEFAULT), a_key("team_a", limits=Limits(requests_per_minute=7))
    team = Account(id="team:team_a", limits=TEAM.limits, budget=TEAM.budget, spent=Spent(period_start=1.0, amount=3))
    of_key = Account(id=f"key:{key.id}", limits=key.limits)
    assert books.accounts(Principal(team=TEAM, key=key)) == (team, of_key)
    assert books.accounts(Principal(team=TEAM, user="ada")) == (team,)
    assert books.accounts(Principal(team=None, key=key, scopes=("admin",))) == (of_key,)
    assert books.accounts(LOCAL) == ()


def test_a_model_without_a_price_of_its_own_costs_what_any_does() -> None:
    books = Books(Known(), DEFAULT)
    assert (books.price("m"), books.price("other")) == (OWN, DEFAULT)
