"""Fields that bodies and answers of several resources have: limits, budgets, money, scopes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from deployments.errors import InvalidRequestError
from deployments.teams import expiry
from deployments.teams.money import dollars, picodollars
from deployments.teams.records import Budget, Limits, Period, Spent, Team

_MAX_AMOUNT_CHARS = 40
_CENT = 10**10  # picodollars


class Body(BaseModel):
    """Base of what is sent here. Null takes a limit or a budget away; what is left out stays as it is."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


def _amount(read: Callable[[str], int]) -> Callable[[str], str]:
    def check(text: str) -> str:
        read(text)
        return text

    return check


Usd = Annotated[
    str,
    Field(min_length=1, max_length=_MAX_AMOUNT_CHARS, description="USD, as a decimal number in a string."),
    AfterValidator(_amount(picodollars)),
]

Name = Annotated[str, Field(min_length=1, max_length=200, description="For people.")]


class LimitFields(Body):
    requests_per_minute: int | None = Field(default=None, ge=1, description="Most requests a minute.")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="Most tokens a minute, prompts and answers.")
    parallel: int | None = Field(default=None, ge=1, description="Most requests at once.")

    @property
    def limits_sent(self) -> dict[str, int | None]:
        return {name: getattr(self, name) for name in Limits.__struct_fields__ if name in self.model_fields_set}

    def limits(self, before: Limits) -> Limits:
        """With what was sent."""
        return msgspec.structs.replace(before, **self.limits_sent)


class LimitsAnswer(BaseModel):
    requests_per_minute: int | None = Field(description="Most requests a minute; null: no limit.")
    tokens_per_minute: int | None = Field(description="Most tokens a minute; null: no limit.")
    parallel: int | None = Field(description="Most requests at once; null: no limit.")


class BudgetBody(Body):
    amount_usd: Usd = Field(description="USD for each period, as a decimal number in a string.")
    period: Period = Field(default="month", description="In UTC; a week begins on Monday.")
    hard: bool = Field(default=False, description="Nothing is computed beyond it; else it is only told.")

    def budget(self) -> Budget:
        return Budget(amount=picodollars(self.amount_usd), period=self.period, hard=self.hard)


class BudgetAnswer(BaseModel):
    amount_usd: str = Field(description="USD for each period, exactly.")
    period: Period = Field(description="In UTC; a week begins on Monday.")
    hard: bool = Field(description="Nothing is computed beyond it; else it is only told.")
    spent_usd: str | None = Field(description="What is on the ledger for the period; null: nothing yet.")
    period_start: int | None = Field(description="When the period began, in Unix seconds.")

    @classmethod
    def of(cls, team: Team, spent: Spent | None) -> BudgetAnswer | None:
        if team.budget is None:
            return None
        return cls(
            amount_usd=usd(team.budget.amount),
            period=team.budget.period,
            hard=team.budget.hard,
            spent_usd=None if spent is None else usd(spent.amount),
            period_start=None if spent is None else int(spent.period_start),
        )


class ExpiryFields(Body):
    expires: str | None = Field(
        default=None,
        max_length=40,
        description="When it ends: a span such as `90d`, or an ISO 8601 day or time.",
    )
    expires_in_seconds: int | None = Field(default=None, ge=1, description="The same, as OpenAI has it.")

    def expires_at(self, now: float) -> float | None:
        """Unix seconds; None: it was not said. Raises InvalidRequestError."""
        if self.expires is not None and self.expires_in_seconds is not None:
            raise InvalidRequestError("One of `expires` and `expires_in_seconds`, not both.", param="expires")
        try:
            if self.expires is not None:
                return expiry.expiry(self.expires, now)
            if self.expires_in_seconds is not None:
                return expiry.checked(now + self.expires_in_seconds, now)
        except ValueError as error:
            raise InvalidRequestError(f"`expires`: {error}.", param="expires", code="invalid_value") from None
        return None


def usd(amount: int) -> str:
    """Picodollars as a decimal number of USD, exactly."""
    return f"{dollars(amount).normalize():f}"


def cents(amount: int) -> int:
    """Picodollars in whole cents, as OpenAI's spend limits have them."""
    return amount // _CENT


def of_cents(amount: int) -> int:
    return amount * _CENT


def seconds(at: float | None) -> int | None:
    return None if at is None else int(at)
