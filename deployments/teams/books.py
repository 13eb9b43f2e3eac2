"""What is known of accounts and prices without asking anybody."""

from __future__ import annotations

from deployments.teams.counting import Account
from deployments.teams.directory import Directory
from deployments.teams.principal import Principal
from deployments.teams.records import Price


class Books:
    """`deployments.http.metering.Books` over the directory. default: price of models that have none of their own."""

    def __init__(self, directory: Directory, default: Price) -> None:
        self._directory = directory
        self.default = default

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
        """Of now."""
        return self._directory.price(model) or self.default
