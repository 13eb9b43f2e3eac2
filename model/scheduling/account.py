"""What one tenant has got of the engine in one class of service.

Service is counted in tokens over the tenant's weight, as in the Virtual Token Counter (Sheng et al., "Fairness in
Serving Large Language Models", arXiv:2401.00588, algorithm 2).

Counters are whole numbers of `SHARE`, which never lose a token however large they grow: of a float of 1e17 nothing is
left to be seen that is below 16.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from model.request import LEAST_WEIGHT, MOST_WEIGHT

PROMPT_TOKEN = 1
OUTPUT_TOKEN = 2
"""What a token counts: one of a prompt is computed beside many others, one of an output takes a step."""

SHARE = 1 << 32
"""What a counter grows by for one token of weight 1; of the largest weight it still is millions."""


def service(tokens: int, weight: float) -> int:
    """What a counter grows by for so many tokens of a weight."""
    return tokens * round(SHARE / min(max(weight, LEAST_WEIGHT), MOST_WEIGHT))


@dataclass(eq=False)
class Account:
    """Of one tenant in one class.

    number: of accounts, in the order in which they were opened. counter: service so far.
    """

    service_class: int
    number: int
    counter: int = 0

    def charge_prompt(self, tokens: int, weight: float) -> None:
        """A prompt's tokens that are in no cache, all of them when it is admitted: chunks would let it flood a step."""
        self.counter += service(PROMPT_TOKEN * tokens, weight)

    def charge_output(self, tokens: int, weight: float) -> None:
        """Tokens that were drawn."""
        self.counter += service(OUTPUT_TOKEN * tokens, weight)


class Accounts:
    """Of all tenants, in each class in which they have been.

    Who comes back to those who wait is lifted to the one of them that has got least, or to who waited last: so nobody
    saves up.
    """

    def __init__(self) -> None:
        self._accounts: dict[tuple[int, str], Account] = {}
        self._left_last: dict[int, Account] = {}

    def of(self, service_class: int, tenant: str) -> Account:
        key = service_class, tenant
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account(service_class, len(self._accounts))
        return account

    def comes(self, account: Account, others: Iterable[Account]) -> None:
        """To those who wait. others: of its class, who are there already."""
        least = min((other.counter for other in others), default=None)
        if least is None and (last := self._left_last.get(account.service_class)) is not None:
            least = last.counter
        if least is not None:
            account.counter = max(account.counter, least)

    def leaves(self, account: Account) -> None:
        """Nobody of it waits any more."""
        self._left_last[account.service_class] = account
