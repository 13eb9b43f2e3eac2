"""What a token costs: `/v1/organization/prices`. Prices are never changed, only followed by newer ones."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, Field

from deployments.api.common.examples import example
from deployments.api.openai.organization.fields import Body
from deployments.api.openai.organization.route import VisitOf
from deployments.errors import InvalidRequestError
from deployments.http.needs import needs
from deployments.teams.expiry import moment
from deployments.teams.money import dollars, price_a_token
from deployments.teams.records import Price

_TOKENS = 1000


def _priced(text: str) -> str:
    price_a_token(text)
    return text


ThousandTokens = Annotated[
    str,
    Field(min_length=1, max_length=40, description="USD for 1,000 tokens, as a decimal number in a string."),
    AfterValidator(_priced),
]


class PriceAnswer(BaseModel):
    object: Literal["organization.price"] = Field(default="organization.price", description="What this is.")
    model: str = Field(description="Whose it is; `*`: of every model that has none of its own, by the settings.")
    input_usd_per_1k: str = Field(description="USD for 1,000 prompt tokens.")
    cached_usd_per_1k: str = Field(description="USD for 1,000 prompt tokens found in the cache.")
    output_usd_per_1k: str = Field(description="USD for 1,000 generated tokens.")
    valid_from: int = Field(description="Unix seconds.")

    @classmethod
    def of(cls, price: Price) -> PriceAnswer:
        return cls(
            model=price.model,
            input_usd_per_1k=_shown(price.input),
            cached_usd_per_1k=_shown(price.cached),
            output_usd_per_1k=_shown(price.output),
            valid_from=int(price.valid_from),
        )


class PriceList(BaseModel):
    object: Literal["list"] = Field(default="list", description="What this is.")
    data: list[PriceAnswer] = Field(description="First `*`, then by model and time; the last 1,000.")


class NewPrice(Body):
    model_config = example(
        "Set a model's price", model="starcoder", input_usd_per_1k="0.0005", output_usd_per_1k="0.0015"
    )

    model: str = Field(min_length=1, max_length=256, description="The model, as requests name it.")
    input_usd_per_1k: ThousandTokens = Field(description="USD for 1,000 prompt tokens.")
    cached_usd_per_1k: ThousandTokens | None = Field(
        default=None, description="USD for 1,000 prompt tokens found in the cache; as others if not given."
    )
    output_usd_per_1k: ThousandTokens = Field(description="USD for 1,000 generated tokens.")
    valid_from: str | None = Field(
        default=None, max_length=40, description="ISO 8601 day or time from which it is valid; now if not given."
    )


_MOST = 1000


def add_routes(router: APIRouter) -> None:
    @router.get("/prices", summary="List prices", response_description="The prices.")
    @needs("key")
    async def list_prices(visit: VisitOf) -> PriceList:
        prices = (await visit.administration.store.prices())[-_MOST:]
        return PriceList(data=[PriceAnswer.of(price) for price in (visit.administration.default_price, *prices)])

    @router.post("/prices", summary="Set a price", response_description="The price.")
    @needs("admin")
    async def set_price(body: NewPrice, visit: VisitOf) -> PriceAnswer:
        visit.check_admin()
        now = visit.administration.clock()
        price = Price(
            model=body.model,
            input=price_a_token(body.input_usd_per_1k),
            cached=price_a_token(body.cached_usd_per_1k or body.input_usd_per_1k),
            output=price_a_token(body.output_usd_per_1k),
            valid_from=now if body.valid_from is None else _from(body.valid_from, now),
        )
        return PriceAnswer.of(await visit.administration.store.set_price(visit.actor, price))


def _from(text: str, now: float) -> float:
    """What has been booked was booked at the price of its time: none begins in the past."""
    try:
        at = moment(text)
    except ValueError as error:
        raise InvalidRequestError(f"`valid_from`: {error}.", param="valid_from", code="invalid_value") from None
    if at < now:
        raise InvalidRequestError("`valid_from` must not be in the past.", param="valid_from", code="invalid_value")
    return at


def _shown(price: int) -> str:
    """Picodollars a token as USD for 1,000."""
    return f"{(dollars(price) * Decimal(_TOKENS)).normalize():f}"
