"""What is known of accounts and prices without asking anybody."""

from __future__ import annotations

from deployments.team_settings import TeamsSettings
from deployments.teams.counting import Account
from deployments.teams.directory import Directory
from deployments.teams.money import price_a_token
from deployments.teams.principal import Principal
from deployments.teams.records import Price


class Books:
    """`deployments.http.metering.Books` over the directory. Raises ValueError for prices that are not exact."""

    def __init__(self, directory: Directory, settings: TeamsSettings) -> None:
        self._directory = directory
        cached = settings.input_price if settings.cached_price is None else settings.cached_price
        self._default = Price(
            model="",
            input=price_a_token(settings.input_price),
            cached=price_a_token(cached),
            output=price_a_token(settings.output_price),
            valid_from=0.0,
        )

    def accounts(self, principal: Principal) -> tuple[Account, ...]:
        """The team's, then the key's."""
        accounts = []
        if (team := principal.team) is not None:
            spent = self._directory.spent(team.id)
            accounts.append(Account(id=f"team:{team.id}", limits=team.limits, budget=team.budget, spent=spent))
        if (key := principal.key) is not None:
            accounts.append(Account(id=f"key:{key.id}", limits=key.limits))
        return tuple(accounts)

    def price(self, model: str) -> Price:
        """Of now: the model's own, else the one of the settings."""
        return self._directory.price(model) or self._default
